"""Parser of terminal input: pasted text with escape sequences."""

import pytest
from textual import events
from textual.drivers import linux_driver, web_driver

from gpt_tui.app.paste_parser import PasteParser, add_paste_parser

START, END = "\x1b[200~", "\x1b[201~"
DATA = f"a{START}first \x1b[31;1mred\x1b[0m \x1br\x1b\x1b[A last{END}b\x1b[A"


def parsed(parts: list[str]) -> list[str]:
    parser = PasteParser()
    found = [event for part in parts for event in parser.feed(part)]
    return [event.text if isinstance(event, events.Paste) else event.key for event in found]  # type: ignore[attr-defined]


def test_escape_sequences_in_a_paste_are_no_keys_and_keys_around_it_are():
    assert parsed([DATA]) == ["a", "first red r[A last", "b", "up"]


@pytest.mark.parametrize("size", range(1, 12))
def test_a_paste_may_arrive_in_parts(size: int):
    parts = [DATA[start : start + size] for start in range(0, len(DATA), size)]
    text = parsed(parts)[1]
    assert parsed(parts) == ["a", text, "b", "up"]
    assert "\x1b" not in text
    assert text.startswith("first ")
    assert text.endswith(" last")


def test_the_drivers_use_it(monkeypatch: pytest.MonkeyPatch):
    for driver in (linux_driver, web_driver):
        monkeypatch.setattr(driver, "XTermParser", None)
    add_paste_parser()
    assert linux_driver.XTermParser is web_driver.XTermParser is PasteParser  # type: ignore[attr-defined]
