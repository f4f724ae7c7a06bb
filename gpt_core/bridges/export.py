"""Export of a model: written under a temporary name, read back, compared with the model, and renamed.

`FORMATS` lists the formats. Each is a pair of functions in a module of its own, which is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

from gpt_core import files
from gpt_core.bridges.self_check import Exported, SelfCheck, check_export
from gpt_core.errors import ConfigError, ExportError, shown
from gpt_core.model.bundle import ModelBundle
from gpt_core.progress import Progress, ignore_progress

WriteModel = Callable[[ModelBundle, Path, str, Progress], tuple[str, ...]]
"""Writes a model to a new path with matrices of a number type; returns notes, one line each."""
ReadBack = Callable[[Path], Exported]


class Format(NamedTuple):
    """Format of an export.

    Attributes:
        title: Name for users.
        suffix: Suffix of its files, "" for a folder.
        number_types: Number types of the matrices that it can hold; the first is the default.
        module: Module with the functions `write_model` (`WriteModel`) and `read_back` (`ReadBack`).
        hint: How to use the result, with `{path}` in it; `{quoted}` is the path in a shell command, and `{options}` are
            those of llama.cpp for the model.
    """

    title: str
    suffix: str
    number_types: tuple[str, ...]
    module: str
    hint: str


FORMATS = {
    "hf": Format(
        "Hugging Face folder", "", ("f32",), "gpt_core.bridges.hf_export",
        "transformers: AutoModelForCausalLM.from_pretrained({path!r}), AutoTokenizer.from_pretrained({path!r})",
    ),
    "gguf": Format(
        "GGUF file for llama.cpp", ".gguf", ("f32", "f16", "bf16", "q8_0"), "gpt_core.bridges.gguf_export",
        "llama.cpp: llama-completion -m {quoted} {options}",
    ),
    "html": Format(
        "web page", ".html", ("f32", "bf16", "int8"), "gpt_core.bridges.web_page",
        "open {path} in a browser, or put it on any web server",
    ),
}  # fmt: skip


class ExportResult(NamedTuple):
    """A finished export.

    Attributes:
        path: The file or folder.
        bytes: Size of its files.
        check: Result of the self-check.
        notes: What to know about this file, one line each.
    """

    path: Path
    bytes: int
    check: SelfCheck
    notes: tuple[str, ...]


def export_model(
    bundle: ModelBundle,
    format_name: str,
    path: Path,
    *,
    number_type: str | None = None,
    progress: Progress = ignore_progress,
) -> ExportResult:
    """Write a model in the format of another program, and check what was written. Nothing is replaced.

    Args:
        bundle: The model.
        format_name: A key of `FORMATS`.
        path: File or folder to create.
        number_type: Number type of the matrices; None for the default of the format.
        progress: Receives the activity and its completed fraction.

    Raises:
        ConfigError: There is no such format or number type.
        ExportError: The format cannot hold the model, or the path exists or cannot be created.
        SaveError: The disk is full or faulty. Nothing is left at the path.
        GptError: The self-check failed. Nothing is left at the path.
    """
    number_type = checked_number_type(format_name, number_type)
    module = import_module(FORMATS[format_name].module)
    write_model, read_back = cast(WriteModel, module.write_model), cast(ReadBack, module.read_back)
    if not path.name or "\0" in str(path):
        raise ExportError(f"got {str(path)!r}, expected the name of a new file or folder")
    try:
        with files.new_path(path) as temporary:
            notes = write_model(bundle, temporary, number_type, progress)
            progress(f"checking {path.name}", 0.0)
            check = check_export(bundle, read_back(temporary), number_type)
            size = sum(file.stat().st_size for file in (temporary, *temporary.rglob("*")) if file.is_file())
    except FileExistsError:
        raise ExportError(f"{path} exists already; remove it, or export to another path") from None
    except OSError as error:
        raise files.not_written(path, error, ExportError) from error
    return ExportResult(path, size, check, notes)


def checked_number_type(format_name: str, number_type: str | None) -> str:
    """Return a number type of a format, the default for None.

    Raises:
        ConfigError: There is no such format, or it does not have this number type.
    """
    if not isinstance(format_name, str) or format_name not in FORMATS:
        raise ConfigError(f"export format: got {shown(format_name)}, expected one of {', '.join(FORMATS)}")
    known = FORMATS[format_name].number_types
    if number_type is None:
        return known[0]
    if number_type not in known:
        listed = " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))
        raise ConfigError(f"type: got {number_type!r}, expected {listed} for {format_name}")
    return number_type
