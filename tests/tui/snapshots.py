"""Snapshots of the app's screen as text: what is on it, then which colors it has, so that a change is read in a diff.

    pytest tests/tui --update-snapshots

writes them anew; then look at what changed with `git diff`, and at the app itself.
"""

from __future__ import annotations

from pathlib import Path

from rich.style import Style
from textual._context import visible_screen_stack
from textual.app import App
from textual.strip import Strip

FOLDER = Path(__file__).with_name("snapshots")
CODES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def screen_strips(app: App[None]) -> list[Strip]:
    """Return the lines of the screen, drawn as Textual draws them: a dialog over the screens behind it."""
    visible_screen_stack.set(app._background_screens)
    return app.screen._compositor.render_strips()


def screen_text(app: App[None]) -> str:
    """The screen's lines; under them a line of codes for each, one code a cell; then what each code looks like."""
    codes: dict[str, str] = {}
    lines, styles = [], []
    for strip in screen_strips(app):
        cells = ""
        for text, style, _ in strip:
            look = described(style)
            code = codes.setdefault(look, CODES[len(codes) % len(CODES)])
            cells += code * len(text)
        lines.append(strip.text.rstrip())
        styles.append(runs(cells))
    legend = [f"{code}  {look}" for look, code in codes.items()]
    return "\n".join([*lines, "", *styles, "", *legend]) + "\n"


def described(style: Style | None) -> str:
    """A cell's look in words: `#d5dae4 on #10141b bold`."""
    if style is None:
        return "plain"
    colors = [color.get_truecolor().hex if color else "default" for color in (style.color, style.bgcolor)]
    words = [name for name in ("bold", "dim", "italic", "underline", "reverse", "strike") if getattr(style, name)]
    return " ".join([f"{colors[0]} on {colors[1]}", *words])


def runs(cells: str) -> str:
    """`aaab` as `a3 b1`."""
    parts: list[str] = []
    start = 0
    for end in range(1, len(cells) + 1):
        if end == len(cells) or cells[end] != cells[start]:
            parts.append(f"{cells[start]}{end - start}")
            start = end
    return " ".join(parts)


def check_snapshot(app: App[None], name: str, *, update: bool) -> None:
    """Holds the screen to the snapshot of this name; with `update` the snapshot is made to be the screen."""
    path, seen = FOLDER / f"{name}.txt", screen_text(app)
    if update:
        FOLDER.mkdir(exist_ok=True)
        path.write_text(seen, encoding="utf-8")
    assert path.exists(), f"no snapshot {path.name}: make it with --update-snapshots, and look at it"
    assert seen == path.read_text(encoding="utf-8"), f"{name} looks otherwise now:\n{seen}"
