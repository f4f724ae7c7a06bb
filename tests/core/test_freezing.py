"""Frozen parameters: parts of the model that are not trained."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core.config.freezing import frozen_parts, model_parts
from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import ModelShape
from gpt_core.distributed.communicator import SINGLE_PROCESS
from gpt_core.errors import ConfigError
from gpt_core.formats.checkpoint import read_checkpoint
from gpt_core.kernels import adamw
from gpt_core.model.gpt import GPT, Gradients
from gpt_core.model.parameters import Parameters, frozen_names, initial_parameters, parameter_table, trained_count
from gpt_core.training import events as ev
from gpt_core.training.gradient_sum import GradientSum, LayerDone
from tests.core.training_samples import finished_trainer, in_one_go, of_kind, open_run, tiny_settings, train

SHAPE = ModelShape(d_model=16, hidden_size=32, vocab_size=300, num_heads=2, seq_len=32, layers=3)
FREEZES = (
    "embedding",
    "positions",
    "layers 0",
    "layers 1-2",
    "final norm",
    "embedding, layers 0-1",
    "embedding, Layer 2",
)


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ("", set()),
        ("embedding", {"wte.weight", "wpe.weight"}),
        ("positions", {"wpe.weight"}),
        (" Final  Norm ,", {"ln_f.weight", "ln_f.bias"}),
    ],
)
def test_parts_are_named_by_the_setting(freeze: str, expected: set[str]):
    assert frozen_names(SHAPE, freeze) == expected


def test_layers_are_counted_from_0_and_ranges_include_both_ends():
    names = {spec.name for spec in parameter_table(SHAPE)}
    assert frozen_names(SHAPE, "layers 1-2") == {name for name in names if name.startswith(("h.1.", "h.2."))}
    assert frozen_names(SHAPE, "layer 1, layers 2") == frozen_names(SHAPE, "layers 1 - 2")
    rest = trained_count(SHAPE, "embedding, layers 0-2")
    assert rest == 2 * SHAPE.d_model


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        ("embeding", "freeze: got 'embeding', expected embedding, positions, .* did you mean embedding"),
        ("layers", "freeze: got 'layers', expected"),
        ("layers 0-3", "freeze: got 'layers 0-3', expected layers from 0 to 2"),
        ("layers 2-1", "in ascending order"),
        ("embedding, layers 0-2, final norm", "which is the complete model"),
        ("layers 99999999999999", "expected embedding"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(freeze: str, words: str):
    with pytest.raises(ConfigError, match=words) as refused:
        frozen_parts(freeze, SHAPE)
    assert "\n" not in str(refused.value)


def test_the_setting_is_checked_against_the_layers_of_the_model():
    assert read_overrides(assignments=["freeze=layers 0-3"]).apply_to().settings.freeze == "layers 0-3"
    with pytest.raises(ConfigError, match="expected layers from 0 to 3"):
        read_overrides(assignments=["freeze=layers 0-4"]).apply_to()


def test_every_parameter_belongs_to_a_part():
    names = [frozen_names(SHAPE, part) for part in ("embedding", "layers 0-2", "final norm")]
    assert len(model_parts(SHAPE)) == 6
    assert set().union(*names) == {spec.name for spec in parameter_table(SHAPE)}


@pytest.mark.parametrize("freeze", FREEZES)
def test_gradients_of_trained_parameters_are_those_without_freezing_to_the_bit(freeze: str):
    shape, random = SHAPE, np.random.default_rng(3)
    tokens, targets = random.integers(shape.vocab_size, size=(2, 2, 16), dtype=np.int32)
    weights, frozen = initial_parameters(shape, 0), frozen_names(shape, freeze)
    expected, found = Parameters(shape), Parameters(shape)
    loss = GPT(weights).loss_and_gradients(tokens, targets, expected, 1.0)
    assert GPT(weights, frozen=frozen).loss_and_gradients(tokens, targets, found, 1.0) == loss
    for name, gradient in expected.tensors.items():
        assert name in frozen or np.array_equal(found[name], gradient), name


@pytest.mark.parametrize("tied_head", [True, False])
@pytest.mark.parametrize("freeze", [*FREEZES, "embedding, layers 0-2"])
def test_the_gradients_of_all_micro_batches_are_summed_whatever_is_frozen(freeze: str, tied_head: bool):
    shape, random = msgspec.structs.replace(SHAPE, tied_head=tied_head), np.random.default_rng(3)
    tokens, targets = random.integers(shape.vocab_size, size=(2, 2, 16), dtype=np.int32)
    weights, frozen = initial_parameters(shape, 0), frozen_names(shape, freeze)
    gpt, expected, found = GPT(weights, frozen=frozen), Parameters(shape), Parameters(shape)
    for row in range(2):
        gpt.loss_and_gradients(tokens[row : row + 1], targets[row : row + 1], expected, 1.0)

    def micro_batch(row: int, gradients: Gradients, layer_done: LayerDone | None) -> float:
        rows = slice(row, row + 1)
        return gpt.loss_and_gradients(tokens[rows], targets[rows], gradients, 1.0, layer_done=layer_done)[0]

    sums = GradientSum(found, 2, SINGLE_PROCESS, frozen=frozen)
    for _ in range(2):
        sums.of_step(micro_batch)
        for name, gradient in expected.tensors.items():
            assert name in frozen or np.allclose(found[name], gradient, rtol=0.0, atol=1e-5), name


def test_gradients_below_the_lowest_trained_layer_are_not_computed():
    tokens, targets = np.random.default_rng(3).integers(SHAPE.vocab_size, size=(2, 2, 16), dtype=np.int32)
    frozen = frozen_names(SHAPE, "embedding, layers 0-1")
    gradients = Parameters(SHAPE)
    GPT(initial_parameters(SHAPE, 0), frozen=frozen).loss_and_gradients(tokens, targets, gradients, 1.0)
    assert all(gradients[name].any() != (name in frozen) for name in gradients.tensors if "c_attn.bias" not in name)


@pytest.mark.parametrize("freeze", ["embedding, layers 0", "positions, layers 1", "layers 0-1, final norm"])
def test_frozen_tensors_are_bit_equal_after_training_and_all_others_are_not(tmp_path: Path, freeze: str):
    settings = tiny_settings(tmp_path, max_steps=6, freeze=freeze, weight_decay=0.1)
    trainer = open_run(settings)
    before = trainer.parameters.copy()
    list(trainer.events())
    frozen = frozen_names(settings.shape, freeze)
    for name, tensor in read_checkpoint(tmp_path / "models/ckpt_latest.safetensors").parameters.tensors.items():
        assert np.array_equal(tensor, before[name]) == (name in frozen), name
    for moments in trainer.run.optimizer.state.values():
        assert not any(moments[name].any() for name in frozen)


def test_the_gradient_norm_is_that_of_the_trained_parameters(tmp_path: Path):
    settings = tiny_settings(tmp_path, max_steps=1, freeze="embedding", debug=True, debug_every=1)
    events = train(settings)
    (step,), (norms,) = of_kind(events, ev.StepCompleted), of_kind(events, ev.GradientNorms)
    total = adamw.norm(np.array(list(norms.grad_norms.values()), np.float32))
    assert step.grad_norm == pytest.approx(total, rel=1e-5)
    assert norms.grad_norms["wte.weight"] == norms.update_norms["wte.weight"] == 0.0


def test_a_resumed_run_with_frozen_parts_equals_an_uninterrupted_one(tmp_path: Path):
    trainer, expected = in_one_go(tmp_path / "whole", 9, freeze="embedding, layers 0")
    in_one_go(tmp_path / "parts", 4, freeze="embedding, layers 0")
    latest = tmp_path / "parts/models/ckpt_latest.safetensors"
    settings = tiny_settings(tmp_path / "parts", max_steps=9, freeze="embedding, layers 0")
    resumed, losses = finished_trainer(settings, resume=latest)
    assert losses == expected[4:]
    assert np.array_equal(resumed.parameters.flat, trainer.parameters.flat)
    assert read_checkpoint(latest).settings.freeze == "embedding, layers 0"


def test_the_number_of_trained_parameters_is_reported(tmp_path: Path):
    settings = tiny_settings(tmp_path, max_steps=1, freeze="embedding")
    (started, *_) = train(settings)
    assert isinstance(started, ev.RunStarted)
    embeddings = (settings.vocab_size + settings.seq_len) * settings.d_model
    assert started.trained_parameters == started.parameters - embeddings
    assert isinstance(first := train(tiny_settings(tmp_path, max_steps=2), overwrite=True)[0], ev.RunStarted)
    assert first.trained_parameters == 0
