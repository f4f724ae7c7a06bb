"""Replies without an app: which model answers, how text is handed on, how it stops, how errors are told."""

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpt_core.config import Settings
from gpt_core.errors import GptError
from gpt_core.generation.generator import Figures
from gpt_core.generation.sampler import Sampling
from gpt_core.model.parameters import initial_parameters
from gpt_core.text.piece_choice import train_tokenizer
from gpt_core.training.checkpoint import Checkpoint, TrainingState
from gpt_core.training.checkpoint_store import CheckpointStore
from gpt_tui.chat_model import Answerer, ChatModels, make_generator, reply, summary
from gpt_tui.engine import Engine, RunRequest
from tests.tui.fake_trainer import SMALL, FakeGenerator, FakeOpen, fake_settings

SAMPLING = Sampling(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=12)


class Heard:
    """A sink that remembers."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.models: list[str] = []
        self.text = ""
        self.end: tuple[str, bool] | None = None
        self.stopped = threading.Event()
        self._stop_after = stop_after

    def began(self, model: str) -> None:
        """One model."""
        self.models.append(model)

    def grew(self, text: str, figures: Figures) -> None:
        """Some text."""
        self.text += text
        if figures.tokens >= self._stop_after:
            self.stopped.set()

    def ended(self, summary: str, failed: bool) -> None:
        """The only end."""
        assert self.end is None
        self.end = (summary, failed)


def saved_model(folder: Path, kind: str, step: int, seed: int) -> None:
    settings = msgspec.structs.replace(
        Settings(), **{name: getattr(SMALL, name) for name in SMALL.__struct_fields__}, models_dir=str(folder)
    )
    tokenizer = train_tokenizer([b"abc"], SMALL.vocab_size, "pieces").to_bytes()
    parameters = initial_parameters(SMALL, seed)
    state = TrainingState(run_id="a", step=step, best_accuracy=0.1)
    with CheckpointStore(folder) as store:
        store.prepare("a", new_run=False)
        store.save(kind, Checkpoint(settings, "", state, tokenizer, "0" * 64, parameters, (parameters, parameters)))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(FakeOpen(), lambda _message: None, tmp_path / "log")
    yield engine
    engine.stop()
    engine.join(10)


def test_the_model_in_training_answers_while_there_is_one(engine: Engine, tmp_path: Path):
    saved_model(tmp_path, "best", 50, seed=1)
    models = ChatModels(engine, str(tmp_path))
    assert models.answerer().name == "best_model.safetensors, step 50"
    engine.start(RunRequest(fake_settings(str(tmp_path))))
    while engine.live_model() is None:
        engine.drain()
    assert models.answerer().name.startswith("in training, step ")
    engine.stop()
    while engine.alive:
        engine.drain()
    assert models.answerer().name == "best_model.safetensors, step 50"


def test_a_checkpoint_is_read_once_and_again_when_it_is_another(engine: Engine, tmp_path: Path):
    models = ChatModels(engine, str(tmp_path))
    with pytest.raises(GptError, match="no model to chat with"):
        models.answerer()
    saved_model(tmp_path, "latest", 10, seed=1)
    first = models.answerer()
    assert models.answerer() is first
    saved_model(tmp_path, "latest", 20, seed=2)
    second = models.answerer()
    assert second.name == "ckpt_latest.safetensors, step 20"
    assert not np.array_equal(first.parameters.flat, second.parameters.flat)


def test_a_reply_is_handed_on_whole(engine: Engine, tmp_path: Path):
    saved_model(tmp_path, "latest", 10, seed=1)
    answerer = ChatModels(engine, str(tmp_path)).answerer()
    heard, again = Heard(), Heard()
    for sink in (heard, again):
        reply("abc", SAMPLING, 7, find=lambda: answerer, make=make_generator, stopped=sink.stopped, sink=sink)
    assert heard.text == "".join(make_generator(answerer, 7).generate("abc", SAMPLING))
    assert heard.text == again.text
    assert heard.models == ["ckpt_latest.safetensors, step 10"]
    assert heard.end is not None
    assert not heard.end[1]


def test_a_reply_stops_between_two_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gpt_tui.chat_model.PIECES_INTERVAL_S", 0.0)
    heard = Heard(stop_after=3)
    answerer = Answerer(initial_parameters(SMALL, 0), train_tokenizer([b"abc"], 260, "pieces"), "it")
    reply(
        "",
        SAMPLING,
        None,
        find=lambda: answerer,
        make=lambda a, s: FakeGenerator(0.0),
        stopped=heard.stopped,
        sink=heard,
    )
    assert heard.end is not None
    assert "stopped" in heard.end[0]
    assert len(heard.text.split()) == 3


@pytest.mark.parametrize("error", [GptError("the model\ngives no finite logits"), ValueError("odd")])
def test_an_error_ends_a_reply_with_one_line(error: Exception):
    def find() -> Answerer:
        raise error

    heard = Heard()
    reply("", SAMPLING, None, find=find, make=make_generator, stopped=heard.stopped, sink=heard)
    assert heard.end is not None
    line, failed = heard.end
    assert failed
    assert "\n" not in line
    assert str(error).split("\n")[-1] in line


def test_a_summary_says_how_a_reply_ended():
    assert summary(Figures(3, 0.1, 120, 0.5, "eos"), False) == "120 tokens · 238 tokens/s · the model ended it"
    assert summary(Figures(3, 0.1, 12, 0.5, ""), True) == "12 tokens · 22 tokens/s · stopped"
    assert (
        summary(Figures(900, 12.0, 1, 0.0, "max_tokens"), False)
        == "1 token · cut at the length set · prompt read in 12 s"
    )
