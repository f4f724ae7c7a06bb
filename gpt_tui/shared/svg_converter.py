"""Conversion of SVG files to PNG by a program that is installed, if there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

CONVERTERS = (
    ("rsvg-convert", ("-o", "{png}", "{svg}")), ("resvg", ("{svg}", "{png}")), ("inkscape", ("{svg}", "-o", "{png}")),
    ("magick", ("{svg}", "{png}")),
)  # fmt: skip
TIMEOUT_S = 30.0


def as_png(path: Path) -> Path | None:
    """Convert an SVG file to a PNG beside it; return None if that exists, without a converter, or if all fail."""
    png = path.with_suffix(".png")
    if os.path.lexists(png):
        return None
    for program, arguments in CONVERTERS:
        found = shutil.which(program)
        if found is None:
            continue
        command = [found, *(argument.format(svg=path.absolute(), png=png.absolute()) for argument in arguments)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
            if done.returncode == 0 and png.exists():
                return png
        except (OSError, subprocess.TimeoutExpired):
            pass
        with suppress(OSError):
            png.unlink()  # an incomplete one
    return None
