"""Replies without an app: updates, stopping, errors, interleaving; the lines around a reply; the prompt history."""

import threading
from collections.abc import Callable, Iterator

import pytest
from textual._xterm_parser import XTermParser

from gpt_core.errors import GptError
from gpt_core.generation.generator import Figures, prompt_bytes
from gpt_core.generation.sampler import Sampling
from gpt_core.model.parameters import initial_parameters
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_tui.app.key_sequences import add_key_sequences
from gpt_tui.session.models import LoadedModel, Report, make_generator
from gpt_tui.shared.pasting import pasted_text
from gpt_tui.tabs.chat.presenter import progress_line, shown_reply, summary_line
from gpt_tui.tabs.chat.prompt_history import PromptHistory
from gpt_tui.tabs.chat.reply import MAX_RANDOM_SEED, ReplyUpdate, generate_reply, interleave, random_seed
from tests.tui.fake_trainer import SMALL, FakeGenerator

SAMPLING = Sampling(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=12)


class Received:
    """The updates of one reply, which are also recorded in a log that several share."""

    def __init__(self, stop_after: int = 10**9, log: list[str] | None = None, name: str = "") -> None:
        self.updates: list[ReplyUpdate] = []
        self.stopped = threading.Event()
        self._stop_after = stop_after
        self._log = [] if log is None else log
        self._name = name

    def post(self, update: ReplyUpdate) -> None:
        """Record an update; no update may follow the last one."""
        assert not self.updates or self.updates[-1].state not in ("finished", "failed")
        self.updates.append(update)
        if update.text:
            self._log.append(self._name)
        if len(self.text.split()) >= self._stop_after:
            self.stopped.set()

    @property
    def text(self) -> str:
        """The text of the reply."""
        return "".join(update.text for update in self.updates)

    @property
    def last(self) -> tuple[str, str]:
        """State and note of the last update."""
        return self.updates[-1].state, self.updates[-1].note


@pytest.fixture
def model() -> LoadedModel:
    return LoadedModel(initial_parameters(SMALL, 0), PieceTokenizer.train([b"abc"], SMALL.vocab_size), "it, step 10")


def fake_reply(received: Received, model: LoadedModel, generator: FakeGenerator) -> Iterator[None]:
    return generate_reply(
        "", SAMPLING, 1, load=lambda _report: model, make=lambda _model, _seed: generator, stopped=received.stopped,
        post=received.post,
    )  # fmt: skip


def real_reply(received: Received, load: Callable[[Report], LoadedModel], seed: int = 1) -> Iterator[None]:
    return generate_reply(
        "abc", SAMPLING, seed, load=load, make=make_generator, stopped=received.stopped, post=received.post
    )


def test_the_updates_hold_the_complete_reply_and_its_seed_reproduces_it(model: LoadedModel):
    received, again = Received(), Received()
    for each in (received, again):
        interleave([real_reply(each, lambda _report: model, seed=7)])
    assert received.text == "".join(make_generator(model, 7).generate("abc", SAMPLING, keep_bytes=True))
    assert received.text == again.text
    assert {update.model for update in received.updates} == {"it, step 10"}
    state, note = received.last
    assert state == "finished"
    assert note.endswith(" · seed 7")


def test_a_reply_keeps_its_bytes_and_shows_none_that_a_terminal_cannot(model: LoadedModel):
    received = Received()
    interleave([real_reply(received, lambda _report: model, seed=7)])
    assert any("\udc80" <= character <= "\udcff" for character in received.text), "random weights choose any byte"
    assert shown_reply("abc", received.text).encode()
    kept = "".join(make_generator(model, 7).generate("abc", SAMPLING, keep_bytes=True))
    assert prompt_bytes(received.text) == prompt_bytes(kept)


def test_a_reply_stops_between_two_pieces(monkeypatch: pytest.MonkeyPatch, model: LoadedModel):
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.UPDATE_INTERVAL_S", 0.0)
    received = Received(stop_after=3)
    interleave([fake_reply(received, model, FakeGenerator(0.0))])
    state, note = received.last
    assert state == "finished"
    assert "stopped" in note
    assert len(received.text.split()) == 3


def test_two_replies_alternate_and_the_end_of_one_does_not_end_the_other(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel
):
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.UPDATE_INTERVAL_S", 0.0)
    log: list[str] = []
    left, right = Received(stop_after=3, log=log, name="left"), Received(log=log, name="right")
    interleave([fake_reply(each, model, FakeGenerator(0.0)) for each in (left, right)])
    assert log[:6] == ["left", "right"] * 3
    assert log[6:] == ["right"] * 9
    assert right.last[1].startswith("12 tokens")


def test_a_failed_reply_does_not_end_the_other_one(model: LoadedModel):
    def missing(_report: Report) -> LoadedModel:
        raise GptError("no such file")

    left, right = Received(), Received()
    interleave([real_reply(left, missing), fake_reply(right, model, FakeGenerator(0.0))])
    assert left.last == ("failed", "no such file")
    assert right.last[0] == "finished"


def test_the_reason_for_a_wait_is_posted_before_the_model(model: LoadedModel):
    def slow(report: Report) -> LoadedModel:
        report("loading it")
        return model

    received = Received()
    interleave([real_reply(received, slow)])
    assert [(update.state, update.note, update.model) for update in received.updates[:2]] == [
        ("loading", "loading it", ""), ("generating", "", "it, step 10"),
    ]  # fmt: skip


def test_the_update_interval_grows_with_the_reply(monkeypatch: pytest.MonkeyPatch, model: LoadedModel):
    now = iter(range(100_000))
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.time.monotonic", lambda: float(next(now)))
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.UPDATE_INTERVAL_S", 2.0)
    monkeypatch.setattr("gpt_tui.tabs.chat.reply.CHARACTERS_PER_INTERVAL", 10)
    log: list[str] = []
    received = Received(log=log)
    interleave([fake_reply(received, model, FakeGenerator(0.0, text="0123456789"))])
    assert len(received.text) == 12 * len(" 0123456789")
    assert len(log) == 3  # after 2 pieces, after 2 + 4.4 more, the rest: each reading of this clock is one piece


@pytest.mark.parametrize("error", [GptError("the model\ngives no finite logits"), ValueError("odd")])
def test_an_error_fails_a_reply_with_one_line(error: Exception):
    def load(_report: Report) -> LoadedModel:
        raise error

    received = Received()
    interleave([real_reply(received, load)])
    state, note = received.last
    assert state == "failed"
    assert "\n" not in note
    assert str(error).split("\n")[-1] in note


def test_a_summary_states_the_ending_and_the_seed():
    assert (
        summary_line(Figures(3, 0, 0.1, 120, 0.5, "eos"), 7, stopped=False)
        == "120 tokens · 238 tokens/s · end of text · seed 7"
    )
    assert (
        summary_line(Figures(3, 0, 0.1, 12, 0.5, ""), 7, stopped=True) == "12 tokens · 22 tokens/s · stopped · seed 7"
    )
    assert (
        summary_line(Figures(900, 0, 12.0, 1, 0.0, "max_tokens"), 0, stopped=False)
        == "1 token · max length reached · prompt processed in 12 s · seed 0"
    )
    assert (progress_line(1, 0.0), progress_line(40, 3100.0)) == ("1 token", "40 tokens · 3.10k tokens/s")


def test_an_ellipsis_marks_a_reply_that_continues_a_word():
    assert shown_reply("It was a", "lmost \x1b") == "…lmost ␛"
    assert shown_reply("It was a", " man") == "man"
    assert shown_reply("It was a ", "man") == "man"
    assert shown_reply("", "") == ""


@pytest.mark.parametrize("text", ["今天天气", "これは", "ประเทศ", "東京"])
def test_a_reply_in_a_script_without_spaces_has_no_mark_of_a_split_word(text: str):
    assert shown_reply(text[:-2], text[-2:]) == text[-2:]


@pytest.mark.parametrize("text", ["Straße", "слово", "λόγος", "안녕하세요"])
def test_a_reply_that_continues_a_word_has_the_mark_in_every_alphabet(text: str):
    assert shown_reply(text[:-2], text[-2:]) == "…" + text[-2:]


def test_the_summary_states_how_much_of_a_long_prompt_was_read():
    figures = Figures(prompt_tokens=256, skipped_tokens=1000, tokens=12, tokens_s=0.5, ended_by="eos")
    note = "the model reads only the last 256 of the prompt's 1,256 tokens"
    assert summary_line(figures, 7, stopped=False) == f"12 tokens · 22 tokens/s · end of text · {note} · seed 7"
    assert summary_line(Figures(3, ended_by="eos"), 7, stopped=False) == "0 tokens · end of text at once · seed 7"


def test_pasted_text_has_line_feeds_and_no_control_characters_but_tabs():
    assert pasted_text("a\r\nb\rc\n\td\x00\x1b[31m\x9b\udc80é") == "a\nb\nc\n\td[31mé"


def test_alt_enter_of_a_terminal_without_the_kitty_protocol_is_a_key_of_its_own():
    add_key_sequences()
    for sent, key in (("\x1b\r", "alt+enter"), ("\r", "enter"), ("\x1b[13;2u", "shift+enter"), ("\n", "ctrl+j")):
        assert [event.key for event in XTermParser(False).feed(sent)] == [key]


def test_random_seeds_are_short_and_differ():
    seeds = {random_seed() for _ in range(100)}
    assert len(seeds) > 90
    assert all(0 <= seed < MAX_RANDOM_SEED for seed in seeds)


def typed(*moves: int) -> Callable[[PromptHistory], list[str]]:
    """Return the texts after each move, starting from an unsent text."""

    def go(history: PromptHistory) -> list[str]:
        shown, seen = "draft", []
        for by in moves:
            shown = history.move(by, shown)
            seen.append(shown)
        return seen

    return go


def test_the_history_moves_through_prompts_and_back_to_the_unsent_text():
    history = PromptHistory(capacity=2)
    assert typed(-1, 1)(history) == ["draft", "draft"]
    for prompt in ("one", "two", "two", "three", ""):
        history.add(prompt)
    assert typed(-1, -1, -1, 1, 1, 1)(history) == ["three", "two", "two", "three", "draft", "draft"]
    assert history.move(-1, "other") == "three"
    assert history.move(1, "three") == "other"
