"""Another optimizer is one class and one registration: it trains, is saved, resumed and counted by its declaration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpt_core.bench.estimate import checkpoint_tensor_bytes, estimate_memory
from gpt_core.bench.step_timing import measure_step_time
from gpt_core.config.resolve import read_overrides
from gpt_core.errors import CheckpointError, ConfigError
from gpt_core.formats.checkpoint import read_checkpoint
from gpt_core.model.parameters import Parameters, parameter_count
from gpt_core.optim import Optimizer, create_optimizer, optimizer_type
from gpt_core.registry import OPTIMIZERS
from tests.core.training_samples import losses, open_run, tiny_settings, train, whole_state

LATEST = "models/ckpt_latest.safetensors"


class SGD(Optimizer):
    """Stochastic gradient descent without state."""

    def update(self, gradients: Parameters, step: int, lr_share: float, scale: float) -> None:
        """Step against the gradient."""
        for start, stop, group, *_ in self.parameters.segments:
            segment = slice(start, stop)
            self.parameters.flat[segment] -= np.float32(self.learning_rates[group] * lr_share) * self.direction(
                gradients.flat[segment] * np.float32(scale), segment
            )

    def direction(self, gradient: np.ndarray, segment: slice) -> np.ndarray:
        """Return the direction to step against."""
        return gradient


class MomentumSGD(SGD):
    """Stochastic gradient descent with momentum 0.9."""

    state_names: ClassVar[tuple[str, ...]] = ("momentum",)

    def direction(self, gradient: np.ndarray, segment: slice) -> np.ndarray:
        """Return the running sum of the gradients."""
        momentum = self.state["momentum"].flat[segment]
        momentum *= np.float32(0.9)
        momentum += gradient
        return momentum


@pytest.fixture(params=[SGD, MomentumSGD])
def toy(request: pytest.FixtureRequest) -> Iterator[type[Optimizer]]:
    """An optimizer registered as "toy"."""
    OPTIMIZERS.register("toy", request.param)
    yield request.param
    OPTIMIZERS.unregister("toy")


def test_a_registered_optimizer_trains_and_resumes_to_the_bit(toy: type[Optimizer], tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    once = tiny_settings(tmp_path / "once", optimizer="toy", max_steps=12, eval_every_steps=0)
    trainer = open_run(once)
    uninterrupted = losses(list(trainer.events()))
    assert uninterrupted[-1] < uninterrupted[0]

    parts = tiny_settings(tmp_path, optimizer="toy", max_steps=7, eval_every_steps=0)
    first = losses(train(parts))
    resumed = open_run(
        tiny_settings(tmp_path, optimizer="toy", max_steps=12, eval_every_steps=0), resume=tmp_path / LATEST
    )
    assert isinstance(resumed.run.optimizer, toy)
    assert first + losses(list(resumed.events())) == uninterrupted
    assert whole_state(resumed) == whole_state(trainer)


def test_a_checkpoint_holds_the_declared_state_and_the_name_of_the_optimizer(
    toy: type[Optimizer], tmp_path: Path
) -> None:
    settings = tiny_settings(tmp_path, optimizer="toy", max_steps=2)
    train(settings)
    checkpoint = read_checkpoint(tmp_path / LATEST)
    assert checkpoint.settings.optimizer == "toy"
    assert checkpoint.optimizer_state is not None
    assert tuple(checkpoint.optimizer_state) == toy.state_names
    tensors = load_file(tmp_path / LATEST)
    assert {name.partition(".")[0] for name in tensors} - {"wte", "wpe", "h", "ln_f", "tokenizer"} == set(
        toy.state_names
    )


def test_memory_and_file_size_are_estimated_from_the_declared_state(toy: type[Optimizer], tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, optimizer="toy", max_steps=1, micro_batch_size=0)
    values = parameter_count(settings.shape)
    assert estimate_memory(settings, threads=1).state == 4 * values * (2 + len(toy.state_names))  # weights, gradients
    assert checkpoint_tensor_bytes(settings) == 4 * values * (1 + len(toy.state_names))


@pytest.mark.slow
def test_a_step_is_timed_with_the_optimizer_of_the_settings(
    toy: type[Optimizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = []
    monkeypatch.setattr(toy, "update", lambda *arguments: updates.append(arguments))
    assert measure_step_time(tiny_settings(tmp_path, optimizer="toy")) is not None
    assert updates


def test_a_checkpoint_cannot_be_resumed_with_another_optimizer(toy: type[Optimizer], tmp_path: Path) -> None:
    train(tiny_settings(tmp_path, optimizer="toy", max_steps=2))
    with pytest.raises(CheckpointError, match="optimizer is 'toy' in it, 'adamw' was requested"):
        open_run(tiny_settings(tmp_path, max_steps=4), resume=tmp_path / LATEST)


def test_the_setting_accepts_registered_names_only(toy: type[Optimizer]) -> None:
    assert read_overrides(assignments=["optimizer=toy"]).apply_to().settings.optimizer == "toy"
    names = ", ".join(OPTIMIZERS.names())
    with pytest.raises(ConfigError, match=f"optimizer: got 'adam', expected one of {names}; did you mean adamw"):
        read_overrides(assignments=["optimizer=adam"]).apply_to()


def test_an_unknown_optimizer_is_an_error_that_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="did you mean adamw"):
        optimizer_type("adam")


def test_a_state_with_other_names_than_declared_is_rejected(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    parameters = Parameters(settings.shape)
    with pytest.raises(ValueError, match=r"got \('momentum',\), expected \('adam_m', 'adam_v'\)"):
        create_optimizer(parameters, settings, {"momentum": Parameters(settings.shape)})
