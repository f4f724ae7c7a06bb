"""Make the pictures of the README and of docs/inside.md. Train the models that they show first.

    python docs/make_pictures.py [--only app|lesson|induction]

- app: the Train tab in a run of three minutes, Chat meanwhile, and three other runs compared.
- lesson: the views of the Inside tab, of the run that docs/inside.md describes, at step 800.
- induction: the view Heads, of a run of the preset induction.

Needs Pillow and the DejaVu Sans Mono font. Runs the app headless, presses its keys, and draws its
screen cell by cell. The pictures of the app show its speed: leave the machine idle meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.style import Style
from textual.pilot import Pilot
from textual.strip import Strip

from gpt_core.bench.budget_rule import budget_request
from gpt_core.config.resolve import read_overrides
from gpt_tui.app.app import GptApp

HERE = Path(__file__).resolve().parent
SIZE = (120, 36)
CELL_WIDTH, CELL_HEIGHT = 10, 21
FONT_SIZE = 16
Color = tuple[int, int, int]
# column and row of the dot of each bit of a braille character
BRAILLE_DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))
# arms of each box-drawing character from the center of the cell: up, right, down, left
BOX_ARMS = {
    "─": "rl", "│": "ud", "╭": "rd", "╮": "ld", "╰": "ur", "╯": "ul", "━": "rl", "┈": "rl", "▏": "ud",
    "┌": "rd", "┐": "ld", "└": "ur", "┘": "ul", "├": "udr", "┤": "udl", "┬": "rld", "┴": "rlu", "╸": "l", "╺": "r",
}  # fmt: skip
# pictures of the Inside tab, and the keys that lead to each
LESSON_VIEWS = {
    "app-inside": ("1", *("right",) * 42),
    "inside-lens": ("2",),
    "inside-attention": ("3", "down", "down", "down"),
}
INDUCTION_VIEWS = {"inside-heads": ("4", *("down",) * 6)}  # to head 2 of layer 1
MAX_COMPUTING_S = 60
MINUTES, PICTURE_S = 3, 110  # budget of the run in the pictures of the app, and seconds until the first of them
LESSON_LEVEL = "x86_64_v3"  # instructions of the lesson's numbers
LESSON = ("--preset", "nano", "--set", "precision=float32", "--set", "eval_every_steps=100", "--max-steps", "800")
SHORT = ("--preset", "nano", "--max-steps", "1200", "--set", "eval_every_steps=200")
# runs to compare, which differ in one setting: folder and options
COMPARED = {
    "runs/nano": SHORT,
    "runs/low-rate": (*SHORT, "--learning-rate", "3e-4"),
    "runs/two-layers": (*SHORT, "--set", "layers=2"),
}


def font(bold: bool) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans Mono; braille and box-drawing characters are drawn as shapes instead."""
    return ImageFont.truetype(f"DejaVuSansMono{'-Bold' if bold else ''}.ttf", FONT_SIZE)


def colors(style: Style | None) -> tuple[Color, Color]:
    """Return foreground and background of a cell."""
    front: Color = (220, 220, 220)
    back: Color = (0, 0, 0)
    if style is not None:
        if style.color is not None and not style.color.is_default:
            front = tuple(style.color.get_truecolor())  # type: ignore[assignment]
        if style.bgcolor is not None and not style.bgcolor.is_default:
            back = tuple(style.bgcolor.get_truecolor())  # type: ignore[assignment]
        if style.reverse:
            front, back = back, front
        if style.dim:
            front = tuple((a + b) // 2 for a, b in zip(front, back, strict=True))  # type: ignore[assignment]
    return front, back


def draw_cell(draw: ImageDraw.ImageDraw, x: int, y: int, character: str, style: Style | None) -> None:
    """Draw one character with its colors at pixel (x, y)."""
    front, back = colors(style)
    draw.rectangle((x, y, x + CELL_WIDTH - 1, y + CELL_HEIGHT - 1), fill=back)
    middle_x, middle_y = x + CELL_WIDTH // 2, y + CELL_HEIGHT // 2
    if 0x2800 <= ord(character) <= 0x28FF:
        for bit, (column, row) in enumerate(BRAILLE_DOTS):
            if (ord(character) - 0x2800) >> bit & 1:
                left, top = x + 1.5 + column * 5, y + 1.5 + row * 5.25
                draw.ellipse((left, top, left + 2.4, top + 2.4), fill=front)
    elif character in BOX_ARMS:
        arms = BOX_ARMS[character]
        if character == "▏":
            middle_x = x
        ends = {
            "u": (middle_x, y),
            "d": (middle_x, y + CELL_HEIGHT - 1),
            "l": (x, middle_y),
            "r": (x + CELL_WIDTH - 1, middle_y),
        }
        for arm in arms:
            if character == "┈" and arm == "l":
                continue  # dashed: draw one half only
            draw.line((middle_x, middle_y, *ends[arm]), fill=front, width=3 if character == "━" else 1)
    elif character in "█▀▄":
        top, bottom = y + (CELL_HEIGHT // 2 if character == "▄" else 0), y + CELL_HEIGHT - 1
        draw.rectangle((x, top, x + CELL_WIDTH - 1, middle_y - 1 if character == "▀" else bottom), fill=front)
    elif character != " ":
        draw.text((x, y), character, font=font(bool(style and style.bold)), fill=front)


def screen_lines(app: GptApp) -> list[Strip]:
    """Return the lines of the screen."""
    return app.screen._compositor.render_strips()[: app.size.height]


def save_picture(app: GptApp, path: Path) -> None:
    """Save the screen of the app as a PNG file."""
    width, height = app.size
    image = Image.new("RGB", (width * CELL_WIDTH, height * CELL_HEIGHT))
    draw = ImageDraw.Draw(image)
    for row, strip in enumerate(screen_lines(app)):
        column = 0
        for text, style, _ in strip:
            for character in text:
                draw_cell(draw, column * CELL_WIDTH, row * CELL_HEIGHT, character, style)
                column += 1
    image.quantize(256).save(path, optimize=True)
    print(path)


async def reply_to(app: GptApp, pilot: Pilot[None], prompt: str, seconds: float) -> None:
    """Send a prompt in the chat and wait."""
    await pilot.press(*prompt, "enter")
    await pilot.pause(seconds)


def train(models_dir: str, *options: str, level: str = "") -> None:
    """Train a model headless, with the instructions of a level; "" for those of the processor."""
    command = [sys.executable, "-m", "gpt_tui", "--train-only", "--models-dir", models_dir, *options]
    environment = {**os.environ, "GPT_TUI_LEVEL": level} if level else None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


async def computed(app: GptApp, pilot: Pilot[None]) -> None:
    """Wait until the Inside tab shows a result: its title names the text then."""
    end = time.monotonic() + MAX_COMPUTING_S
    while time.monotonic() < end and not any(" · probe, " in strip.text for strip in screen_lines(app)):
        await pilot.pause(0.5)
    await pilot.pause(1)


async def make_inside_pictures(models_dir: str, preset: str, views: Mapping[str, tuple[str, ...]]) -> None:
    """Save a picture per view of the Inside tab, from a run that has ended."""
    resolved = read_overrides(preset=preset, assignments=[f"models_dir={models_dir}"]).apply_to()
    app = GptApp(resolved.settings, resolved.preset)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(0.5)
        await pilot.press("f6")
        await pilot.pause(1)
        for name, keys in views.items():
            await pilot.press(keys[0])
            await computed(app, pilot)
            await pilot.press(*keys[1:])
            await pilot.pause(1)
            save_picture(app, HERE / f"{name}.png")


async def make_app_pictures() -> None:
    """Train with a time budget, and save pictures of Train, Chat and Runs."""
    request = budget_request(read_overrides(assignments=[f"minutes={MINUTES}"]))
    app = GptApp(request.settings, request.preset_name, request=request)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(PICTURE_S)
        save_picture(app, HERE / "app-train.png")
        await pilot.press("f3")
        await pilot.pause(0.5)
        await reply_to(app, pilot, "It was a truth", 4)
        await reply_to(app, pilot, "Her sister", 4)
        save_picture(app, HERE / "app-chat.png")
        while app.controller.alive:
            await pilot.pause(0.5)
        for folder, options in COMPARED.items():
            await asyncio.to_thread(train, folder, *options)
        await pilot.press("f5")
        await pilot.pause(3)
        await pilot.press("space", "down", "space", "down", "space", "m", "m")
        await pilot.pause(2)
        save_picture(app, HERE / "app-runs.png")


def make_lesson_pictures() -> None:
    """Train the run of the lesson, and save pictures of what the Inside tab shows of it."""
    train("step-800", *LESSON, level=LESSON_LEVEL)
    asyncio.run(make_inside_pictures("step-800", "nano", LESSON_VIEWS))


def make_induction_pictures() -> None:
    """Train the preset induction, and save a picture of its heads."""
    train("induction", "--preset", "induction", level=LESSON_LEVEL)
    asyncio.run(make_inside_pictures("induction", "induction", INDUCTION_VIEWS))


def main() -> None:
    """Make the pictures."""
    parts = {
        "app": lambda: asyncio.run(make_app_pictures()),
        "lesson": make_lesson_pictures,
        "induction": make_induction_pictures,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=parts, help="make only these pictures")
    only = parser.parse_args().only
    os.environ["PYTHONPATH"] = str(HERE.parent)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, make in parts.items():
            if only in (None, name):
                make()


if __name__ == "__main__":
    main()
