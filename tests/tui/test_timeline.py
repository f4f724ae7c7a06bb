"""The samples as lines of text: what is on each, where a sample begins, and that its text can do no harm."""

import pytest
from rich.cells import cell_len

from gpt_tui.run_view.samples_layout import Timeline, body, head, reflowed, sample_at, timeline
from gpt_tui.session.run_state import Evaluation, Sample
from gpt_tui.shared.wrapping import wrapped
from tests.tui.samples import TEXTS, learned

POINT = Evaluation(12_400, 12_697_600, 1240.0, 3.2514, 0.31, 1.7555)


def text_of(shown: Timeline) -> list[str]:
    return ["".join(span.text for span in line) for line in shown.lines]


@pytest.mark.parametrize("width", [12, 30, 48, 80, 200])
def test_no_line_is_wider_than_the_pane_and_no_word_is_lost(width):
    history = learned()
    shown = timeline(history.samples, history.best.step, width)
    assert all(cell_len(line) <= width for line in text_of(shown))
    for sample in history.samples:
        words = reflowed(sample.prompt + sample.text).split()
        lines = "".join("".join(span.text for span in line[1:]) for line in body(sample.prompt, sample.text, width))
        assert lines.replace(" ", "") == "".join(words)


def test_samples_stand_from_the_untrained_one_to_the_newest_each_under_its_head():
    history = learned(3)
    shown = timeline(history.samples, history.best.step, 90)
    lines = text_of(shown)
    heads = [lines[start] for start in shown.starts]
    assert heads[0] == "◇ step 0   untrained: random weights"
    assert [line[:10] for line in heads[1:]] == ["◆ step 150", "◆ step 300", "★ step 450"]
    assert heads[3].endswith("bits per byte   best so far")
    assert lines[shown.starts[1] + 1].startswith("│ It was not of the explstery")


def test_the_prompt_is_told_apart_from_the_reply_also_where_a_line_breaks_inside_it():
    lines = body("one two three four five", " six seven eight", 14)
    parts = [[span.part for span in line] for line in lines]
    assert parts[0] == ["rail", "prompt"]
    assert ["rail", "prompt", "reply"] in parts
    assert parts[-1] == ["rail", "reply"]


def test_text_is_made_harmless_and_is_never_markup():
    lines = body("It was", TEXTS[0] + "\x1b[31m\u202e", 200)
    text = "".join(span.text for line in lines for span in line)
    assert "\x07" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]" in text


def test_line_feeds_flow_and_blank_lines_break():
    assert reflowed("one\ntwo  \n three\n\n\nfour") == "one two three\nfour"


def test_a_narrow_head_says_the_most_important_things_first():
    sample = Sample(12_400, 1240.0, "It was", "", POINT)
    heads = ["".join(span.text for span in head(sample, True, width)) for width in (80, 48, 34, 16, 3)]
    assert heads[0] == "★ step 12,400   20:40   eval loss 3.251   1.756 bits per byte   best so far"
    assert heads[1] == "★ step 12,400   loss 3.251   1.756 bits/byte"
    assert heads[2] == "★ step 12,400   loss 3.251"
    assert heads[3] == "★ step 12,400"
    assert heads[4] == "★ s"


def test_an_airy_timeline_has_a_gap_between_two_samples():
    history = learned(2)
    close, airy = (timeline(history.samples, 0, 60, spaced=airy) for airy in (False, True))
    assert len(airy.lines) == len(close.lines) + 2
    assert text_of(airy)[airy.starts[1] - 1] == "│ "


def test_the_sample_of_a_moment_is_the_newest_one_written_by_then():
    samples = learned(3).samples
    assert [sample_at(samples, step) for step in (0, 149, 150, 449.5, 9999)] == [0, 0, 1, 2, 3]
    assert sample_at((), 5) is None


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("the quick brown fox", 9, ["the quick", "brown fox"]),
        ("unbrokenlongword a", 6, ["unbrok", "enlong", "word a"]),
        ("日本語の本", 4, ["日本", "語の", "本"]),
        ("one\n\ntwo", 10, ["one", "", "two"]),
        ("", 10, [""]),
    ],
)
def test_lines_break_at_spaces_and_by_cells(text, width, lines):
    assert wrapped(text, width) == lines


def test_an_empty_sample_says_that_the_text_ended_at_once():
    lines = body("话说天下", "", 60)
    assert "".join(span.text for line in lines for span in line) == "│ 话说天下 (end of text at once)"
    assert "at once" not in "".join(span.text for line in body("It was", " dark", 60) for span in line)


@pytest.mark.parametrize("text", [" ", "\n\n", "\t \n"])
def test_a_sample_of_white_space_says_so(text: str):
    lines = body("It was", text, 60)
    assert "".join(span.text for line in lines for span in line) == "│ It was (only white space)"


@pytest.mark.parametrize("width", range(30, 100))
def test_the_best_sample_names_its_scores_as_the_others_do(width: int):
    sample = Sample(560, 13.0, "It was", "", POINT)
    best, other = ("".join(span.text for span in head(sample, is_best, width)) for is_best in (True, False))
    assert ("bits per byte" in best) == ("bits per byte" in other)
