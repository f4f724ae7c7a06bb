"""Replies without an app: how text is handed on, how a reply stops, how errors are told, how two take turns."""

import threading
from collections.abc import Callable, Iterator

import pytest

from gpt_core.errors import GptError
from gpt_core.generation.generator import Figures
from gpt_core.generation.sampler import Sampling
from gpt_core.model.parameters import initial_parameters
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_tui.tabs.chat.loaded_models import LoadedModel, Tell, make_generator
from gpt_tui.tabs.chat.prompt_history import PromptHistory
from gpt_tui.tabs.chat.reply import DRAWN_SEEDS, drawn_seed, progress, reply, shown_reply, side_by_side, summary
from tests.tui.fake_trainer import SMALL, FakeGenerator

SAMPLING = Sampling(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=12)


class Heard:
    """A sink that remembers, also in a log that several share."""

    def __init__(self, stop_after: int = 10**9, log: list[str] | None = None, name: str = "") -> None:
        self.models: list[str] = []
        self.text = ""
        self.grown = 0
        self.end: tuple[str, bool] | None = None
        self.stopped = threading.Event()
        self._stop_after = stop_after
        self._log = [] if log is None else log
        self._name = name

    def delayed(self, words: str) -> None:
        """A wait."""

    def began(self, model: str) -> None:
        """One model."""
        self.models.append(model)

    def grew(self, text: str, figures: Figures) -> None:
        """Some text."""
        self.text += text
        self.grown += 1
        self._log.append(self._name)
        if figures.tokens >= self._stop_after:
            self.stopped.set()

    def ended(self, summary: str, failed: bool) -> None:
        """The only end."""
        assert self.end is None
        self.end = (summary, failed)


@pytest.fixture
def answerer() -> LoadedModel:
    return LoadedModel(initial_parameters(SMALL, 0), PieceTokenizer.train([b"abc"], SMALL.vocab_size), "it, step 10")


def fake_reply(heard: Heard, answerer: LoadedModel, generator: FakeGenerator) -> Iterator[None]:
    return reply(
        "", SAMPLING, 1, find=lambda _tell: answerer, make=lambda _a, _s: generator, stopped=heard.stopped, sink=heard
    )


def test_a_reply_is_handed_on_whole_and_its_seed_gives_it_again(answerer: LoadedModel):
    heard, again = Heard(), Heard()
    for sink in (heard, again):
        side_by_side(
            [reply("abc", SAMPLING, 7, find=lambda _: answerer, make=make_generator, stopped=sink.stopped, sink=sink)]
        )
    assert heard.text == "".join(make_generator(answerer, 7).generate("abc", SAMPLING))
    assert heard.text == again.text
    assert heard.models == ["it, step 10"]
    assert heard.end is not None
    assert not heard.end[1]
    assert heard.end[0].endswith(" · seed 7")


def test_a_reply_stops_between_two_pieces(monkeypatch: pytest.MonkeyPatch, answerer: LoadedModel):
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.STRETCH_S", 0.0)
    heard = Heard(stop_after=3)
    side_by_side([fake_reply(heard, answerer, FakeGenerator(0.0))])
    assert heard.end is not None
    assert "stopped" in heard.end[0]
    assert len(heard.text.split()) == 3


def test_two_replies_take_turns_and_the_end_of_one_leaves_the_other(
    monkeypatch: pytest.MonkeyPatch, answerer: LoadedModel
):
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.STRETCH_S", 0.0)
    log: list[str] = []
    left, right = Heard(stop_after=3, log=log, name="left"), Heard(log=log, name="right")
    side_by_side([fake_reply(one, answerer, FakeGenerator(0.0)) for one in (left, right)])
    assert log[:6] == ["left", "right"] * 3
    assert log[6:] == ["right"] * 9
    assert right.end is not None
    assert right.end[0].startswith("12 tokens")


def test_a_failed_reply_leaves_the_other_one(answerer: LoadedModel):
    def gone(_tell: Tell) -> LoadedModel:
        raise GptError("no such file")

    left, right = Heard(), Heard()
    failing = reply("", SAMPLING, 1, find=gone, make=make_generator, stopped=left.stopped, sink=left)
    side_by_side([failing, fake_reply(right, answerer, FakeGenerator(0.0))])
    assert left.end == ("no such file", True)
    assert right.end is not None
    assert not right.end[1]


def test_text_comes_in_stretches_that_grow_with_the_reply(monkeypatch: pytest.MonkeyPatch, answerer: LoadedModel):
    now = iter(range(100_000))
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.time.monotonic", lambda: float(next(now)))
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.STRETCH_S", 2.0)
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.MORE_FOR_CHARACTERS", 10)
    heard = Heard()
    side_by_side([fake_reply(heard, answerer, FakeGenerator(0.0, text="0123456789"))])
    assert len(heard.text) == 12 * len(" 0123456789")
    assert heard.grown == 3  # after 2 pieces, after 2 + 4.4 more, the rest: every step of this clock is one piece


@pytest.mark.parametrize("error", [GptError("the model\ngives no finite logits"), ValueError("odd")])
def test_an_error_ends_a_reply_with_one_line(error: Exception):
    def find(_tell: Tell) -> LoadedModel:
        raise error

    heard = Heard()
    side_by_side([reply("", SAMPLING, 1, find=find, make=make_generator, stopped=heard.stopped, sink=heard)])
    assert heard.end is not None
    line, failed = heard.end
    assert failed
    assert "\n" not in line
    assert str(error).split("\n")[-1] in line


def test_a_summary_says_how_a_reply_ended_and_with_which_seed():
    assert (
        summary(Figures(3, 0.1, 120, 0.5, "eos"), 7, stopped=False)
        == "120 tokens · 238 tokens/s · the model ended it · seed 7"
    )
    assert summary(Figures(3, 0.1, 12, 0.5, ""), 7, stopped=True) == "12 tokens · 22 tokens/s · stopped · seed 7"
    assert (
        summary(Figures(900, 12.0, 1, 0.0, "max_tokens"), 0, stopped=False)
        == "1 token · cut at the length set · prompt read in 12 s · seed 0"
    )
    assert (progress(1, 0.0), progress(40, 3100.0)) == ("1 token", "40 tokens · 3.10k tokens/s")


def test_a_reply_that_goes_on_inside_a_word_is_shown_to_do_so():
    assert shown_reply("It was a", "lmost \x1b") == "…lmost ␛"
    assert shown_reply("It was a", " man") == "man"
    assert shown_reply("It was a ", "man") == "man"
    assert shown_reply("", "") == ""


def test_drawn_seeds_are_short_and_not_always_the_same():
    seeds = {drawn_seed() for _ in range(100)}
    assert len(seeds) > 90
    assert all(0 <= seed < DRAWN_SEEDS for seed in seeds)


def typed(*moves: int) -> Callable[[PromptHistory], list[str]]:
    """What is shown after each of these moves, begun with a draft."""

    def go(history: PromptHistory) -> list[str]:
        shown, seen = "draft", []
        for by in moves:
            shown = history.move(by, shown)
            seen.append(shown)
        return seen

    return go


def test_the_arrow_keys_go_through_the_prompts_and_back_to_what_was_being_typed():
    history = PromptHistory(most=2)
    assert typed(-1, 1)(history) == ["draft", "draft"]
    for prompt in ("one", "two", "two", "three", ""):
        history.add(prompt)
    assert typed(-1, -1, -1, 1, 1, 1)(history) == ["three", "two", "two", "three", "draft", "draft"]
    assert history.move(-1, "other") == "three"
    assert history.move(1, "three") == "other"
