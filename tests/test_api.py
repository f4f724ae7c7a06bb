"""The public API of gpt_core: training, loading, generating, evaluating."""

from __future__ import annotations

import ast
import copy
import gzip
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import ArrayLike

import gpt_core
from gpt_core import api
from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.errors import CheckpointError, ConfigError, CorpusError, GptError, RunExistsError, SaveError
from gpt_core.formats.checkpoint import Checkpoint
from gpt_core.kernels import threads
from gpt_core.kernels.arrays import ALIGNMENT
from gpt_core.optim.optimizer import Optimizer
from gpt_core.training.events import (
    LOGGED,
    AnyEvent,
    CheckpointSaved,
    EvalCompleted,
    Event,
    RunFinished,
    RunStarted,
    StepCompleted,
)
from gpt_core.training.metrics import MetricValues
from gpt_core.training.metrics_log import read_metrics
from tests.core.training_samples import write_texts
from tests.program import TIMEOUT_S, environment

TINY: dict[str, object] = {
    "d_model": 16, "hidden_size": 32, "vocab_size": 300, "num_heads": 2, "seq_len": 32, "layers": 2, "batch_size": 8,
    "micro_batch_size": 4, "eval_every_steps": 5, "save_every_minutes": 0, "sample_tokens": 0, "threads": 2, "seed": 3,
}  # fmt: skip


def tiny(folder: Path, **changes: object) -> gpt_core.TrainingRun:
    """Prepare a run on a few kilobytes of text."""
    train, held_out = write_texts(folder)
    settings = {"eval_file": held_out, "models_dir": folder / "models", "max_steps": 6} | TINY | changes
    return gpt_core.train(train, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, gpt_core.TrainingResult]:
    """A folder with texts and checkpoints, and the result of the run that saved them."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, tiny(folder).result()


@pytest.fixture(scope="module")
def model(trained: tuple[Path, gpt_core.TrainingResult]) -> gpt_core.Model:
    """The model loaded from the latest checkpoint."""
    return gpt_core.load(trained[0] / "models" / "ckpt_latest.safetensors", threads=2)


# -- the package


def test_importing_the_package_imports_only_the_standard_library() -> None:
    code = (
        "import sys, gpt_core; assert {'train', 'load', 'Model', '__version__'} <= set(dir(gpt_core)), dir(gpt_core);"
        "sys.exit(str(sorted({'numpy', 'msgspec', 'gpt_core.kernels'} & set(sys.modules))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == "[]"


def test_a_source_folder_that_is_not_compiled_says_where_to_start_python(tmp_path: Path) -> None:
    package = Path(gpt_core.__file__).parent
    shutil.copytree(package, tmp_path / "gpt_core", ignore=lambda *names: [n for n in names[1] if n.endswith(".so")])
    code = [sys.executable, "-c", "import gpt_core; gpt_core.load"]
    run = subprocess.run(
        code, cwd=tmp_path, env=environment(PYTHONPATH=""), capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: no compiled kernels in {tmp_path / 'gpt_core' / 'kernels'}; start Python out")
    assert "During handling" not in run.stderr


def test_every_public_name_exists_and_an_unknown_one_is_an_attribute_error() -> None:
    assert all(hasattr(gpt_core, name) for name in gpt_core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        gpt_core.trian  # noqa: B018


def test_the_usage_block_of_the_package_uses_names_that_exist() -> None:
    block = "\n".join(line[4:] for line in (gpt_core.__doc__ or "").splitlines() if line.startswith("    "))
    used = {
        node.attr
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("gpt_core", "model")
    }
    assert used >= {"train", "load", "generate", "stream", "evaluate", "logits", "tokenizer"}
    assert all(hasattr(gpt_core, name) or hasattr(gpt_core.Model, name) for name in used)


# -- training


def test_a_run_yields_its_events_in_order(tmp_path: Path) -> None:
    events = list(tiny(tmp_path))
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    assert [event.step for event in events if isinstance(event, StepCompleted)] == [1, 2, 3, 4, 5, 6]


def test_the_result_holds_losses_checkpoints_and_the_model(
    trained: tuple[Path, gpt_core.TrainingResult], model: gpt_core.Model
) -> None:
    folder, result = trained
    assert (result.reason, result.step) == ("max_steps", 6)
    assert result.checkpoint == folder / "models" / "ckpt_latest.safetensors"
    assert result.best_checkpoint == folder / "models" / "best_model.safetensors"
    assert result.final_checkpoint == folder / "models" / "transformer.safetensors"
    assert result.save_errors == {}
    assert result.train_loss is not None
    assert result.eval_loss is not None
    assert 0 < result.train_loss < np.log(300) + 1
    assert 0 < result.metrics["accuracy"] <= 1
    assert result.model.parameters.flat.tobytes() == model.parameters.flat.tobytes()
    assert (model.step, model.bundle.preset_name, model.bundle.path) == (6, "custom", result.checkpoint)


def test_the_result_after_iterating_equals_the_result_alone(
    tmp_path: Path, trained: tuple[Path, gpt_core.TrainingResult]
) -> None:
    run = tiny(tmp_path)
    for event in run:
        if isinstance(event, StepCompleted):
            assert run.metrics["step_loss"] == event.loss
    alone = trained[1]
    ours = {name: value for name, value in run.result().metrics.items() if name != "throughput"}
    assert ours == {name: value for name, value in alone.metrics.items() if name != "throughput"}


def test_stop_ends_the_run_after_a_save_and_a_resume_continues_it(
    tmp_path: Path, trained: tuple[Path, gpt_core.TrainingResult]
) -> None:
    run = tiny(tmp_path)
    for event in run:
        if isinstance(event, StepCompleted) and event.step == 3:
            stopping = threading.Thread(target=run.stop)
            stopping.start()
            stopping.join()
            break
    stopped = run.result()
    assert (stopped.reason, stopped.step) == ("stopped", 3)
    resumed = gpt_core.train(resume=stopped.checkpoint).result()
    assert (resumed.reason, resumed.step) == ("max_steps", 6)
    assert resumed.model.parameters.flat.tobytes() == trained[1].model.parameters.flat.tobytes()
    assert resumed.train_loss == trained[1].train_loss  # a moving average over all steps


@pytest.fixture
def python_sigint() -> Iterator[None]:
    """Python's own handler of SIGINT, which raises KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_sigint")
def test_ctrl_c_within_an_update_lets_it_end_and_saves_an_exact_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    expected = tiny(tmp_path / "whole", max_steps=8).result()
    run = tiny(tmp_path / "cut", max_steps=8)
    update_average = Optimizer.update_average

    def interrupted_in_step_5(self: Optimizer, step: int) -> None:
        update_average(self, step)
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, run:
        patch.setattr(Optimizer, "update_average", interrupted_in_step_5)
        with pytest.raises(KeyboardInterrupt):
            list(run)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run.step == 5
    resumed = gpt_core.train(resume="newest", models_dir=tmp_path / "cut" / "models").result()
    assert resumed.step == 8
    assert np.array_equal(resumed.model.parameters.flat, expected.model.parameters.flat)


@pytest.mark.usefixtures("python_sigint")
@pytest.mark.parametrize("kind", [StepCompleted, CheckpointSaved, RunFinished])
def test_ctrl_c_loses_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Event]) -> None:
    run, seen, signals = tiny(tmp_path), list[AnyEvent](), [signal.SIGINT]
    events = run._events

    def interrupted_before_the_first_of_its_kind() -> Generator[AnyEvent]:
        for event in events:
            if isinstance(event, kind) and signals:
                signal.raise_signal(signals.pop())
            yield event

    monkeypatch.setattr(run, "_events", interrupted_before_the_first_of_its_kind())
    with pytest.raises(KeyboardInterrupt):
        seen.extend(run)
    counted = run.metrics
    seen.append(next(run))
    assert isinstance(seen[-1], kind)
    assert run.metrics == counted
    seen.extend(run)
    logged = [*read_metrics(tmp_path / "models" / "metrics.jsonl")]
    assert [event for event in seen if isinstance(event, LOGGED)] == logged
    result = run.result()
    assert result.metrics["step_loss"] == [event.loss for event in logged if isinstance(event, StepCompleted)][-1]
    assert result.checkpoint == tmp_path / "models" / "ckpt_latest.safetensors"


def test_a_config_file_of_the_command_is_one_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('theme = "nord"\npatience = 7\n[keys]\n')
    with tiny(tmp_path, config_file=tmp_path / "run.toml", max_steps=1) as run:
        assert run.settings.patience == 7


def test_an_event_whose_metric_fails_is_not_lost_for_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny(tmp_path, max_steps=1)
    updated = MetricValues.updated

    def fails_at_the_end(self: MetricValues, events: Any, metrics: Any) -> MetricValues:
        if any(isinstance(event, RunFinished) for event in events):
            raise ZeroDivisionError
        return updated(self, events, metrics)

    monkeypatch.setattr(MetricValues, "updated", fails_at_the_end)
    with pytest.raises(ZeroDivisionError):
        list(run)
    assert isinstance(next(run), RunFinished)
    assert run.result().checkpoint is not None


def test_a_resume_reports_the_limit_that_it_raises(tmp_path: Path) -> None:
    tiny(tmp_path).result()
    latest = tmp_path / "models" / "ckpt_latest.safetensors"
    for settings, raised in (({}, ["the run had reached max_steps=6: it is lifted"]), ({"max_steps": 7}, [])):
        with gpt_core.train(resume=latest, **settings) as run:
            started = next(run)
        assert isinstance(started, RunStarted)
        assert [line.partition(";")[0] for line in started.warnings if "had reached" in line] == raised


def test_the_newest_checkpoint_is_resumed_by_name(tmp_path: Path) -> None:
    tiny(tmp_path, max_steps=4).result()
    run = gpt_core.train(resume="newest", models_dir=tmp_path / "models", max_steps=5)
    assert run.step == 4
    assert run.result().step == 5


def test_a_resumed_run_has_the_metrics_of_its_checkpoint(tmp_path: Path) -> None:
    run = tiny(tmp_path, eval_every_steps=3)
    while run.step < 4:
        next(run)
    run.stop()
    measured_in_steps = ("learning_rate", "grad_norm", "throughput")
    values = {name: value for name, value in run.result().metrics.items() if name not in measured_in_steps}
    assert values.keys() == {"step_loss", "train_loss", "perplexity", "eval_loss", "accuracy", "bits_per_byte"}
    resumed = gpt_core.train(resume="newest", models_dir=tmp_path / "models", max_steps=4)
    assert resumed.metrics == values
    result = resumed.result()
    assert (result.step, result.metrics, result.eval_loss) == (4, values, values["eval_loss"])


def test_save_writes_a_checkpoint_while_the_run_continues(tmp_path: Path) -> None:
    run = tiny(tmp_path)
    saved_at = []
    for event in run:
        if isinstance(event, StepCompleted) and event.step == 2:
            run.save()
        if isinstance(event, CheckpointSaved) and event.kind == "latest":
            saved_at.append(event.step)
    assert saved_at[0] == 2
    assert saved_at[-1] == 6


def test_a_result_says_which_last_saves_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, kinds = CheckpointStore.save, list[str]()

    def failing_save(store: CheckpointStore, kind: str, checkpoint: Checkpoint, **options: object) -> Path:
        kinds.append(kind)
        if kind == "final" or kinds == ["latest"]:
            raise SaveError(f"{store.path_of(kind)}: the disk is full")
        return save(store, kind, checkpoint, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointStore, "save", failing_save)
    result = tiny(tmp_path, save_every_steps=2).result()
    assert kinds[0] == "latest"
    assert result.checkpoint == tmp_path / "models" / "ckpt_latest.safetensors"
    assert result.final_checkpoint is None
    assert result.save_errors == {"final": f"{tmp_path / 'models' / 'transformer.safetensors'}: the disk is full"}


def test_a_closed_run_is_saved_and_releases_its_folder(tmp_path: Path) -> None:
    with tiny(tmp_path) as run:
        next(event for event in run if isinstance(event, StepCompleted))
    with pytest.raises(RuntimeError, match="closed"):
        run.result()
    assert gpt_core.load(tmp_path / "models" / "ckpt_latest.safetensors").step == 1
    tiny(tmp_path, overwrite=True).close()  # before its first event
    assert tiny(tmp_path, overwrite=True).result().step == 6


def test_closing_a_run_while_another_thread_is_within_a_step_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny(tmp_path, max_steps=1000)
    trainer, in_step, may_end = run._trainer, threading.Event(), threading.Event()
    take_step, seen = trainer._take_step, list[object]()

    def held_step() -> object:
        in_step.set()
        may_end.wait(TIMEOUT_S)
        return take_step()

    monkeypatch.setattr(trainer, "_take_step", held_step)
    iterating, closing = threading.Thread(target=lambda: seen.extend(run)), threading.Thread(target=run.close)
    iterating.start()
    assert in_step.wait(TIMEOUT_S)
    closing.start()
    while not trainer.requests.stopping and closing.is_alive():
        pass
    assert closing.is_alive()
    may_end.set()
    for thread in (iterating, closing):
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
    with gpt_core.train(resume="newest", models_dir=tmp_path / "models") as resumed:  # the folder is free
        assert resumed.step == run.step <= 1


def test_a_run_is_not_closed_by_a_signal_handler_within_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny(tmp_path)
    take_step = run._trainer._take_step

    def interrupted_step() -> object:
        with pytest.raises(RuntimeError, match="cannot be closed within a step"):
            run.close()
        return take_step()

    monkeypatch.setattr(run._trainer, "_take_step", interrupted_step)
    assert run.result().step == 6


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"d_modle": 16}, ConfigError, "did you mean d_model"),
        ({"max_steps": -1}, ConfigError, r"max_steps: got -1, expected .* \(from argument\)"),
        ({"preset": "huge"}, ConfigError, "huge"),
        ({"eval_file": "missing.txt"}, CorpusError, "missing.txt"),
        ({"resume": "missing.safetensors"}, CheckpointError, "missing.safetensors"),
        ({"overwrite": "no"}, ConfigError, "overwrite: got 'no', expected true or false"),
        ({"eval_file": {"a.txt", "b.txt"}}, ConfigError, "eval_file: got .*, expected .*several separated by ;"),
    ],
)
def test_bad_arguments_are_errors_of_one_line(
    tmp_path: Path, changes: dict[str, object], error: type[GptError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        tiny(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_an_empty_name_is_not_taken_as_the_default_text(tmp_path: Path) -> None:
    for name in ("", [""]):
        with pytest.raises(gpt_core.GptError, match="train_file: got "):
            gpt_core.train(name, models_dir=str(tmp_path / "models"))


def test_a_run_of_another_folder_is_not_overwritten_unasked(trained: tuple[Path, gpt_core.TrainingResult]) -> None:
    with pytest.raises(RunExistsError):
        tiny(trained[0])


# -- the model


def test_generation_with_a_seed_is_reproducible_and_streams_the_same_text(model: gpt_core.Model) -> None:
    text = model.generate("It was", max_tokens=20, temperature=0.8, seed=1)
    assert text
    assert text == model.generate("It was", max_tokens=20, temperature=0.8, seed=1)
    pieces = model.stream("It was", max_tokens=20, temperature=0.8, seed=1)
    assert isinstance(pieces, Iterator)
    assert "".join(pieces) == text
    assert len({model.generate("It was", max_tokens=20, seed=seed) for seed in range(4)}) > 1


def test_generation_refuses_an_argument_out_of_bounds(model: gpt_core.Model) -> None:
    with pytest.raises(ConfigError, match="top_p"):
        model.stream("It was", top_p=0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed: got -1, expected a whole number of at least 0"),
        ({"seed": "a"}, "seed: got 'a', expected a whole number"),
        ({"seed": 1.5}, "seed: got 1.5, expected a whole number"),
        ({"prompt": b"It"}, "prompt: got b'It', expected text; decode bytes first"),
        ({"prompt": None}, "prompt: got None, expected text"),
    ],
)
def test_generation_refuses_a_wrong_seed_or_prompt(
    model: gpt_core.Model, arguments: dict[str, object], message: str
) -> None:
    for generate in (model.generate, model.stream):
        with pytest.raises(ConfigError, match=re.escape(message)):
            generate(**({"prompt": "It"} | arguments))  # type: ignore[operator]


@pytest.mark.parametrize("value", [True, 3, b"models", ("a", "b")])
def test_a_value_that_is_not_a_path_is_refused_with_the_name_of_the_argument(value: Any, model: gpt_core.Model) -> None:
    for name, call in (
        ("resume", lambda: gpt_core.train(resume=value)),
        ("config_file", lambda: gpt_core.train(config_file=value)),
        ("path", lambda: gpt_core.load(value)),
        ("path", lambda: model.export("gguf", value)),
        ("source", lambda: gpt_core.import_model(value)),
        ("output", lambda: gpt_core.import_model("source", value)),
    ):
        with pytest.raises(ConfigError, match=rf"^{name}: got .*, expected a path \(from argument\)$"):
            call()


def test_losses_are_those_of_a_string(model: gpt_core.Model) -> None:
    with pytest.raises(ConfigError, match="text: got b'It', expected text"):
        model.token_losses(b"It")  # type: ignore[arg-type]


def test_evaluating_the_eval_text_gives_the_scores_of_the_run(
    trained: tuple[Path, gpt_core.TrainingResult], tmp_path: Path
) -> None:
    folder, _ = trained
    events = [event for event in tiny(tmp_path) if isinstance(event, EvalCompleted)]
    model = gpt_core.load(tmp_path / "models" / "best_model.safetensors")
    found = model.evaluate(folder / "eval.en")
    scores = model.scores
    assert scores is not None
    event = next(event for event in events if event.step == scores.step)
    assert (found.loss, found.accuracy, found.bits_per_byte) == (event.loss, event.accuracy, event.bits_per_byte)
    assert (scores.loss, scores.accuracy) == (event.loss, event.accuracy)
    assert found.perplexity == pytest.approx(np.exp(found.loss))


def test_logits_give_the_loss_that_evaluation_reports(model: gpt_core.Model, tmp_path: Path) -> None:
    text = b"It was kind."
    (tmp_path / "short.txt").write_bytes(text)
    tokenizer = model.tokenizer
    ids = [tokenizer.BOS, *tokenizer.encode(text).tolist(), tokenizer.EOS]
    logits = model.logits(ids[:-1]).astype(np.float64)
    assert logits.shape == (len(ids) - 1, 300)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -log_probabilities[np.arange(len(ids) - 1), ids[1:]].mean()
    assert model.evaluate(tmp_path / "short.txt").loss == pytest.approx(loss, rel=1e-5)


def test_token_losses_of_a_text_longer_than_the_context_add_up_to_what_evaluation_reports(
    model: gpt_core.Model, tmp_path: Path
) -> None:
    text = "It was kind, and she walked to the gate. He had said very little, but the rain came early. " * 2
    (tmp_path / "long.txt").write_text(text)
    tokenizer, T = model.tokenizer, model.settings.seq_len
    ids = [tokenizer.BOS, *tokenizer.encode(text.encode()).tolist()]
    assert len(ids) > 2 * T
    found = model.token_losses(text)
    assert found.ids.tolist() == ids[1:]
    assert found.losses.shape == found.ids.shape
    logits = model.logits(ids[(len(ids) - 1) // T * T :])[-1].astype(np.float64)
    of_eos = np.log(np.exp(logits).sum()) - logits[tokenizer.EOS]
    evaluated = model.evaluate(tmp_path / "long.txt")
    assert found.losses.sum() + of_eos == pytest.approx(evaluated.loss * evaluated.tokens, rel=1e-5)
    assert [array.size for array in model.token_losses("")] == [0, 0]


def test_a_run_and_an_evaluation_accept_several_texts_of_several_kinds(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(("It was a dark night; the rat was at it.\n\n" * 60).encode("utf-16"))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"body": "The cat sat on the mat."}\n' * 60))
    names = [folder / "a.txt", f"{folder}/*.jsonl.gz"]
    results = []
    for number, train_file in enumerate((folder, str(folder), names, tuple(names), f"{folder}/*")):
        options = {"models_dir": tmp_path / f"models{number}", "text_field": "body", "max_steps": 3, **TINY}
        run = gpt_core.train(train_file, **options)  # type: ignore[arg-type]
        results.append(run.result().train_loss)
    assert len(set(results)) == 1
    model = gpt_core.load(tmp_path / "models0" / "ckpt_latest.safetensors", threads=2)
    scores = model.evaluate(folder)
    assert model.evaluate(names) == scores
    (folder / "c.txt").write_bytes("Über die Brücke.\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"c\.txt is not UTF-8: .* set encoding=cp1252"):
        model.evaluate(folder)
    assert model.evaluate(folder, encoding="cp1252").tokens > scores.tokens
    assert model.evaluate(folder, allow_binary=True).tokens > 2 * scores.tokens
    with pytest.raises(ConfigError, match="encoding: got 'nothing'"):
        model.evaluate(folder, encoding="nothing")
    with pytest.raises(CorpusError, match="got no text, expected the name of"):
        model.evaluate("")


def test_a_file_to_evaluate_may_begin_with_a_tilde_and_must_be_plain_text(
    model: gpt_core.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text.txt").write_text("It was a truth that she waited.\n" * 4)
    assert model.evaluate("~/text.txt") == model.evaluate(tmp_path / "text.txt")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(CorpusError, match=r"picture\.png"):
        model.evaluate("~/picture.png")


@pytest.mark.parametrize("ids", [[], [300], [-1], [[1, 2]], [1] * 33, [1 << 40], [5.9], ["5"], [True], None])
def test_logits_refuse_ids_that_do_not_fit(model: gpt_core.Model, ids: ArrayLike) -> None:
    with pytest.raises(ValueError, match=r"^ids: got"):
        model.logits(ids)


def test_the_refusal_of_too_many_ids_names_the_context(model: gpt_core.Model) -> None:
    with pytest.raises(ValueError, match=re.escape("ids: got shape (40,), expected (T,) with T from 1 to 32")):
        model.logits(range(40))  # type: ignore[arg-type]


def test_logits_take_integers_of_any_type(model: gpt_core.Model) -> None:
    expected = model.logits([5, 6])
    for ids in ((5, 6), range(5, 7), np.array([5, 0, 6], np.uint8)[::2], np.array([5, 6], np.int64)):
        np.testing.assert_array_equal(model.logits(ids), expected)


def test_the_model_names_its_size_and_step(model: gpt_core.Model) -> None:
    assert repr(model) == "<Model custom 2 layers, 16 channels, step 6>"
    settings = msgspec.structs.replace(model.settings, layers=1)
    assert "1 layer," in repr(gpt_core.Model(replace(model.bundle, settings=settings)))


@pytest.mark.parametrize("twin_of", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy])
def test_a_copy_of_a_model_is_equal_and_independent(
    model: gpt_core.Model, twin_of: Callable[[gpt_core.Model], gpt_core.Model]
) -> None:
    text = model.generate("It was", max_tokens=8, seed=1)
    twin = twin_of(model)
    assert (repr(twin), twin.settings, twin.scores) == (repr(model), model.settings, model.scores)
    assert twin.generate("It was", max_tokens=8, seed=1) == text
    np.testing.assert_array_equal(twin.logits([5, 6]), model.logits([5, 6]))
    twin.parameters.flat.fill(0.0)
    assert not any(tensor.any() for tensor in twin.parameters.tensors.values())
    assert twin.parameters.flat.ctypes.data % ALIGNMENT == 0
    assert model.parameters.flat.any()


def test_a_result_can_be_pickled(trained: tuple[Path, gpt_core.TrainingResult]) -> None:
    result = trained[1]
    twin = pickle.loads(pickle.dumps(result))
    assert replace(twin, model=result.model) == result


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_weights_of_fewer_bits_generate_and_score_nearly_the_same(
    trained: tuple[Path, gpt_core.TrainingResult], model: gpt_core.Model, weights: str
) -> None:
    folder, _ = trained
    smaller = gpt_core.load(
        folder / "models" / "ckpt_latest.safetensors", threads=2, weights=weights  # type: ignore[arg-type]
    )  # fmt: skip
    assert smaller.generate("It was", max_tokens=20, temperature=0) != ""
    scored, exact = (one.evaluate(folder / "eval.en").bits_per_byte for one in (smaller, model))
    assert scored != exact
    assert scored == pytest.approx(exact, abs=0.01)


def test_loading_a_model_keeps_the_number_of_threads_unless_another_is_given(
    trained: tuple[Path, gpt_core.TrainingResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trained[0] / "models" / "best_model.safetensors"
    monkeypatch.setattr(api, "compute_threads", lambda requested: requested or 5)
    threads.set_threads(3)
    try:
        for given, used in (({}, 3), ({"threads": 2}, 2), ({}, 2), ({"threads": 0}, 5)):
            gpt_core.load(path, **given)
            assert threads.get_threads() == used
    finally:
        threads.set_threads(2)


def test_a_program_that_only_loads_a_model_uses_all_cores(trained: tuple[Path, gpt_core.TrainingResult]) -> None:
    code = (
        "import sys, gpt_core; from gpt_core import api; from gpt_core.kernels import threads;"
        "api.compute_threads = lambda requested: requested or 5;"
        "gpt_core.load(sys.argv[1]); print(threads.get_threads())"
    )
    command = [sys.executable, "-c", code, str(trained[0] / "models" / "best_model.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "5\n"


@pytest.mark.parametrize("number", [-1, 2000, 1.5, "many"])
def test_an_impossible_number_of_threads_is_refused(
    trained: tuple[Path, gpt_core.TrainingResult], number: object
) -> None:
    with pytest.raises(ConfigError, match=r"threads: got .*, expected a whole number of at least 0 and at most 1024"):
        gpt_core.load(trained[0] / "models" / "best_model.safetensors", threads=number)  # type: ignore[arg-type]


def test_an_unknown_format_of_weights_is_refused(trained: tuple[Path, gpt_core.TrainingResult]) -> None:
    with pytest.raises(ConfigError, match=r"weights: got 'int4', .*\(from argument\)"):
        gpt_core.load(trained[0] / "models" / "ckpt_latest.safetensors", weights="int4")  # type: ignore[arg-type]
