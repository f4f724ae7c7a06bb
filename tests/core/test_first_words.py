"""The default prompt of samples: the first words of the held-out text, in the language of the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_core import tokenizers
from gpt_core.formats.checkpoint import peek_checkpoint
from gpt_core.text.first_words import beginning, first_words, opening
from gpt_core.text.token_stream import TokenStream, tokens_of_documents
from gpt_core.tokenizers import Tokenizer
from gpt_core.training import events as ev
from tests.core.training_samples import LATEST, of_kind, open_run, tiny_settings, train

CHINESE = "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。"
GERMAN = "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch."


def stream_of(*documents: str) -> tuple[TokenStream, Tokenizer]:
    texts = [document.encode() for document in documents]
    tokenizer = tokenizers.train("pieces", texts, 320)
    return tokens_of_documents(texts, tokenizer), tokenizer


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([GERMAN], "Über allen Gipfeln"),
        ([CHINESE], "话说天下大势"),
        (["Chapter 1", "THE END", GERMAN], "Über allen Gipfeln"),
        (["Erstes\nKapitel, das mit einer langen Zeile endet", GERMAN], "Über allen Gipfeln"),
        (["Ein Satz."], "Ein"),
        (["ab"], "a"),
        (["Donaudampfschifffahrtsgesellschaft fährt"], "Donaud"),
        (["e\u0301" * 20], "e\u0301e\u0301e\u0301"),
        (["eeeee" + "e\u0301" * 20], "eeeeee\u0301"),
        (["👩\u200d🚀" * 20], "👩\u200d🚀" * 2),
        (["\tint main(int argc, char **argv)"], "int main(int"),
    ],
)
def test_the_first_words_begin_a_long_line_and_cut_no_word_and_no_character(
    documents: list[str], expected: str
) -> None:
    assert first_words(*stream_of(*documents)) == expected


def test_words_leave_more_than_half_of_the_line() -> None:
    assert beginning("") == ""
    for line in ("a", "ab cd", "eins zwei drei", CHINESE, GERMAN):
        assert len(beginning(line)) <= len(line) / 2
        assert line.startswith(beginning(line))


def test_a_text_cut_inside_a_document_begins_with_its_next_complete_line() -> None:
    text, tokenizer = stream_of(f"abcdefgh\n{GERMAN}")
    cut = TokenStream(
        text.source, text.start + 3, text.count - 3, text.bytes, text.token_lengths, text.sha256, text.name, 0
    )
    assert first_words(cut, tokenizer) == "Über allen Gipfeln"


@pytest.mark.parametrize("start", [3, 5])
def test_a_text_cut_inside_its_only_line_begins_with_a_complete_word(start: int) -> None:
    text, tokenizer = stream_of(GERMAN)
    cut = TokenStream(
        text.source, text.start + start, text.count - start, text.bytes, text.token_lengths, text.sha256, text.name, 0
    )
    words = first_words(cut, tokenizer)
    assert words
    assert f" {words} " in GERMAN


@pytest.mark.parametrize(("line", "prompt"), [(GERMAN, "Über allen Gipfeln"), (CHINESE, "话说天下大势")])
def test_samples_of_a_run_continue_words_of_its_eval_text(tmp_path: Path, line: str, prompt: str) -> None:
    settings = tiny_settings(tmp_path, max_steps=2, sample_tokens=4, eval_every_steps=1, vocab_size=400)
    for file in (settings.train_file, settings.eval_file):
        Path(file).write_text(f"{line}\n\n" * 40, encoding="utf-8")
    assert {event.prompt for event in of_kind(train(settings), ev.SampleWritten)} == {prompt}
    assert peek_checkpoint(tmp_path / LATEST).settings.sample_prompt == prompt
    Path(settings.eval_file).write_text("Noch ein ganz anderer Text zum Bewerten.\n", encoding="utf-8")
    resumed = open_run(peek_checkpoint(tmp_path / LATEST).settings, resume=tmp_path / LATEST)
    assert resumed.settings.sample_prompt == prompt
    resumed.run.store.close()


def test_the_self_test_continues_one_of_its_lines(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, overfit_tiny=True, overfit_lines=5, overfit_steps=1, sample_tokens=4)
    lines = Path(settings.train_file).read_text().split("\n")
    for event in of_kind(train(settings), ev.SampleWritten):
        assert event.prompt
        assert any(line.startswith(event.prompt) for line in lines)


def test_the_opening_of_a_text_is_one_line_with_a_slash_between_documents() -> None:
    assert opening(*stream_of("EMMA", "By  Jane\nAusten")) == "EMMA / By Jane Austen"
    long = opening(*stream_of("Wort " * 99))
    assert long.endswith("…")
    assert len(long) <= 73


def test_bytes_that_are_not_utf8_are_left_out_of_the_first_words() -> None:
    texts = ["Jörg und Anna gehen über die Brücke und in den Wald.".encode("latin-1")]
    tokenizer = tokenizers.train("pieces", texts, 320)
    assert first_words(tokens_of_documents(texts, tokenizer), tokenizer) == "und in"
