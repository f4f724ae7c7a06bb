"""`gpt-tui inspect`: show what a model computes on a text."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gpt_core import files
from gpt_core.errors import EXIT_OK, ConfigError
from gpt_core.model.bundle import ModelBundle
from gpt_tui.cli.generate import STANDARD_INPUT, standard_input_text
from gpt_tui.cli.options import load_model, output_path
from gpt_tui.headless.inside.page import page
from gpt_tui.headless.inside.terminal import print_view
from gpt_tui.headless.progress_line import ProgressLine
from gpt_tui.session.inside.subject import Subject, UnavailableViewError, subject_of
from gpt_tui.session.inside.view import View
from gpt_tui.session.inside.views import VIEWS, ViewOptions
from gpt_tui.shared.formatting import integer
from gpt_tui.shared.sanitize import one_line, valid_utf8

DEFAULT_VIEW = "tokens"
MAX_DIGITS = 9  # of a number of a layer or a head
VIEW_OF_OPTION = {"layer": "attention", "head": "attention", "next": "attribution", "mean": "ablation"}
"""The view that an option is for"""


def inspect(options: Namespace) -> int:
    """Run `gpt-tui inspect`: print a view of a model and a text, or write views to a page.

    A page of all views leaves out those that the text or the context is too short for.
    """
    if options.json and options.html is not None:
        raise ConfigError("got --json and --html, expected one of them")
    path = None if options.html is None else new_page(options.html)
    is_all = path is not None and not options.view
    names = list(VIEWS) if is_all else [options.view or DEFAULT_VIEW]
    for option, view in VIEW_OF_OPTION.items():
        if getattr(options, option) not in (None, False) and view not in names:
            raise ConfigError(f"--{option} has no effect on the view {names[0]}; add --view {view}")
    text = options.text
    if text == STANDARD_INPUT:
        text = standard_input_text("TEXT", "give the text as an argument")
    if not text:
        raise ConfigError("TEXT: got an empty text, expected at least one character")
    view_options = ViewOptions(
        whole_number(options.layer, "--layer"), whole_number(options.head, "--head"), options.next,
        "mean" if options.mean else "zero", with_pictures=path is not None,
    )  # fmt: skip
    bundle = load_model(options)
    with ProgressLine() as progress:
        subject = subject_of(bundle, text, progress)
        views: dict[str, View] = {}
        left_out: list[str] = []
        for name in names:
            try:
                views[name] = VIEWS[name](subject, view_options)
            except UnavailableViewError as error:
                if not is_all:
                    raise
                left_out.append(str(error))
    for reason in left_out:
        print(f"gpt-tui: not in the page: {reason}", file=sys.stderr)
    if subject.total > len(subject.ids):
        read, total = integer(len(subject.ids)), integer(subject.total)
        print(f"gpt-tui: the model reads only the first {read} of the text's {total} tokens", file=sys.stderr)
    title = one_line(f"{bundle.path}, step {integer(bundle.step)}", 1000)
    if path is not None:
        write_page(path, title, list(views.values()))
        print(one_line(f"{path}: {', '.join(views)}", 1000))
    elif options.json:
        print(msgspec.json.encode(json_of(bundle, subject, names[0], views[names[0]])).decode())
    else:
        print(title)
        print_view(views[names[0]])
    return EXIT_OK


def new_page(name: str) -> Path:
    """Return the path of a page to write. Raises ConfigError if it is not that of a new file."""
    path = output_path(name, "--html")
    if not path.name or "\0" in name:
        raise ConfigError(f"--html: got {name!r}, expected the name of a new file")
    if os.path.lexists(path):
        raise ConfigError(f"--html: {path} exists already; name a new file")
    return path


def write_page(path: Path, title: str, views: Sequence[View]) -> None:
    """Write views to a new page.

    Raises:
        ConfigError: The path is not that of a new file in a folder that can be written.
        SaveError: The disk is full or faulty. Nothing is left at the path.
    """
    try:
        with files.new_path(path) as temporary:
            files.write_new(temporary, (part.encode() for part in page(title, views)))
    except FileExistsError:
        raise ConfigError(f"--html: {path} exists already; name a new file") from None
    except OSError as error:
        raise files.not_written(f"--html: {path}", error, ConfigError) from error


def whole_number(value: str | None, option: str) -> int | None:
    """Return the number of an option. Raises ConfigError."""
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > MAX_DIGITS:
        raise ConfigError(f"{option}: got {value!r}, expected a whole number from 0")
    return int(value)


def json_of(bundle: ModelBundle, subject: Subject, name: str, view: View) -> dict[str, Any]:
    """Return a view for programs. As JSON, numbers that are not finite are null."""
    return {
        "model": valid_utf8(str(bundle.path)), "step": bundle.step, "view": name, "read_tokens": len(subject.ids),
        "text_tokens": subject.total, **view.data,
    }  # fmt: skip
