"""Sanitized text, and numbers with their units."""

import pytest

from gpt_tui.shared.formatting import (
    age,
    bar,
    clock,
    duration,
    estimated_duration,
    fixed,
    nats,
    perplexity,
    probability,
    rate,
    short,
    significant,
    size,
)
from gpt_tui.shared.sanitize import one_line, printable


def test_no_control_character_is_left_in_printable_text():
    every = "".join(map(chr, range(0x3000)))
    shown = printable(every)
    assert not [c for c in shown if (ord(c) < 0x20 and c != "\n") or 0x7F <= ord(c) < 0xA0]
    assert not [c for c in shown if 0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069]


def test_an_escape_sequence_is_visible_and_inert():
    assert printable("\x1b]0;title\x07\x9b31m") == "␛]0;title␇\N{REPLACEMENT CHARACTER}31m"


def test_carriage_returns_are_shown_only_inside_a_line():
    assert printable("a\r\nb\r\r\nc\r") == "a\nb\nc"
    assert printable("a\rb") == "a␍b"


def test_lone_surrogates_are_replaced():
    assert printable("a\udcffb").encode("utf-8")


def test_ordinary_text_is_untouched():
    text = "Æsop [bold]wrote[/bold]\n“fables” 漢字"
    assert printable(text) == text


def test_one_line_has_no_line_break_and_a_maximum_length():
    assert one_line("a\r\n b\n\n c") == "a b c"
    assert one_line("x" * 1000, 50) == "x" * 49 + "…"


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (short(1_058_944), "1.06M"),
        (probability(0.3124), "31.2%"),
        (probability(0.0006), "0.1%"),
        (probability(0.0004), "< 0.1%"),
        (probability(0.00002, 2), "< 0.01%"),
        (probability(float("nan")), "–"),
        (short(57_482_752), "57.5M"),
        (short(999_999), "1.00M"),
        (short(10_480), "10.5k"),
        (short(950), "950"),
        (short(float("nan")), "–"),
        (nats(2.71828), "2.718"),
        (nats(0.0123), "0.0123"),
        (nats(0.03), "0.0300"),
        (nats(0.0), "0"),
        (significant(61.0), "61.0"),
        (significant(123.4), "123"),
        (significant(1.2e-5), "1.20e-05"),
        (significant(float("nan")), "–"),
        (nats(float("inf")), "not finite"),
        (perplexity(2048.4), "2,048"),
        (perplexity(44.31), "44.31"),
        (rate(3e-3), "3.00e-3"),
        (rate(0.0), "0"),
        (rate(1.0), "1.0"),
        (rate(9.9), "9.9"),
        (rate(2.5e-8), "2.50e-8"),
        (rate(12.5), "1.25e1"),
        (duration(252), "4 min 12 s"),
        (duration(7_500), "2 h 05 min"),
        (estimated_duration(599), "9 min 59 s"),
        (estimated_duration(2_521), "42 min"),
        (estimated_duration(3_590), "1 h 00 min"),
        (estimated_duration(7_500), "2 h 05 min"),
        (duration(200_000), "2 d 7 h"),
        (age(252), "4 min"),
        (clock(75), "1:15"),
        (clock(3675), "1:01:15"),
        (size(220_200_960), "220 MB"),
        (size(999_600), "1.0 MB"),
        (size(999_400), "999 kB"),
        (bar(0.5, 4), "━━──"),
        (bar(0.625, 4), "━━╸─"),
        (bar(7.0, 4), "━━━━"),
    ],
)
def test_numbers_are_short_and_have_their_units(written, wanted):
    assert written == wanted


def test_a_number_that_is_rounded_to_zero_has_no_sign():
    assert (fixed(-0.001, 2), fixed(-0.01, 2), fixed(0.001, 2)) == ("0.00", "-0.01", "0.00")
