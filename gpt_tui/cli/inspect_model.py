"""`gpt-tui inspect`: show what a model computes on a text."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

import numpy as np

from gpt_core.errors import EXIT_OK, ConfigError
from gpt_core.model.bundle import ModelBundle
from gpt_tui.cli.generate import STANDARD_INPUT, standard_input_text
from gpt_tui.cli.options import load_model
from gpt_tui.headless.inside.terminal import print_view
from gpt_tui.headless.inside.view import View
from gpt_tui.headless.inside.views import VIEWS, Choices, Subject, subject_of
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.shared.formatting import integer
from gpt_tui.shared.sanitize import one_line


def inspect_model(options: Namespace) -> int:
    """Run `gpt-tui inspect`: print a view of a model and a text."""
    text = options.text
    if text == STANDARD_INPUT:
        text = standard_input_text("TEXT", "give the text as an argument")
    choices = Choices(
        whole_number(options.layer, "--layer"), whole_number(options.head, "--head"), options.next,
        "mean" if options.mean else "zero",
    )  # fmt: skip
    bundle = load_model(options)
    with ProgressLine() as progress:
        subject = subject_of(bundle, text, progress)
        view = VIEWS[options.view](subject, choices)
    if subject.total > len(subject.ids):
        read, total = integer(len(subject.ids)), integer(subject.total)
        print(f"gpt-tui: the model reads only the first {read} of the text's {total} tokens", file=sys.stderr)
    if options.json:
        print(json.dumps(json_of(bundle, subject, options.view, view), allow_nan=False))
    else:
        print(one_line(f"{bundle.path}, step {integer(bundle.step)}", 1000))
        print_view(view)
    return EXIT_OK


def whole_number(value: str | None, option: str) -> int | None:
    """Return the number of an option. Raises ConfigError."""
    if value is None:
        return None
    if not value.isascii() or not value.isdigit():
        raise ConfigError(f"{option}: got {value!r}, expected a whole number from 0")
    return int(value)


def json_of(bundle: ModelBundle, subject: Subject, name: str, view: View) -> dict[str, Any]:
    """Return a view for programs. Numbers that are not finite are null."""
    values = {
        "model": str(bundle.path), "step": bundle.step, "view": name, "read_tokens": len(subject.ids),
        "text_tokens": subject.total, **view.data,
    }  # fmt: skip
    return {key: finite(value) for key, value in values.items()}


def finite(value: Any) -> Any:
    """Return data for JSON with None in the place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
