"""One HTML file that holds a model and a program that generates with it in a browser, without a network.

The page is put together from the files in `page/`: a template, a style sheet, the program of a worker that runs the
model (tokenizer, forward pass with a KV cache, sampler), and the program of what users see. The forward pass computes
every choice of layers, also those that have no name elsewhere. The weights follow as one stream of bytes in base64, cut
into elements that the page decodes while the file arrives:

    tokenizer   U8, as serialized by `gpt_core.tokenizers.storage`
    tensors     F32, BF16, or int8 with float32 scales before the values, one per row (I8R) or per column (I8C);
                little-endian, in the order of the model

With float32, the greedy text of the page is that of `gpt_core.generation`. Fewer bits make a smaller file with rounded
weights.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpt_core import __version__, files, tokenizers
from gpt_core.bridges.run_text import training_text
from gpt_core.bridges.self_check import Exported
from gpt_core.config.presets import CUSTOM
from gpt_core.config.settings import ModelShape
from gpt_core.errors import ExportError
from gpt_core.generation.sampler import Sampling
from gpt_core.kernels.arrays import Array, widened
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import Parameters, parameter_count
from gpt_core.model.stored_weights import StoredWeights, WeightFormat
from gpt_core.progress import Progress
from gpt_core.tokenizers import EOS

MAX_PARAMETERS = 12_000_000
TOKENIZERS = ("pieces", "ascii")  # those that `page/tokenizer.js` knows
TOKENIZER = "tokenizer"
FORMATS: dict[str, WeightFormat] = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}
"""Format of the matrices by number type"""
PART_BYTES = 3 << 18  # of the stream in one element: 1 MiB of base64
LARGE_BYTES = 8_000_000  # of the stream, from which on smaller number types are mentioned
WORKER = ("tokenizer.js", "transformer.js", "sampler.js", "worker.js")

_PART = (b'    <script type="text/plain" class="weights">', b"</script>\n")
_MODEL = re.compile(rb'<script type="application/json" id="model">(.*?)</script>')
_PARTS = re.compile(rb'<script type="text/plain" class="weights">([A-Za-z0-9+/=]*)</script>')


class Entry(msgspec.Struct, frozen=True):
    """A tensor in the stream, or the tokenizer. The shape is that of the values; positions are in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class PageModel(msgspec.Struct, frozen=True):
    """Model as the page reads it, without the stream.

    Attributes:
        shape: Shape of the model; settings of GPT-2's layers are left out.
        entries: Contents of the stream.
        bytes: Length of the stream.
        eos: Id of the end of text.
        prompt: Prompt that the page begins with.
        sampling: Sampling parameters that the page begins with.
    """

    shape: ModelShape
    entries: tuple[Entry, ...]
    bytes: int
    eos: int
    prompt: str
    sampling: Sampling


class Part(NamedTuple):
    """Content of the stream: name, type, shape of the values, and arrays that are stored one after another."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    arrays: tuple[NDArray[Any], ...]


def write_model(bundle: ModelBundle, path: Path, number_type: str, progress: Progress) -> tuple[str, ...]:
    """Write the page of a model to a new file, with matrices of a number type (`FORMATS`); return notes.

    Raises:
        ExportError: The page cannot hold such a model.
        OSError: The file cannot be written.
    """
    check_exportable(bundle)
    weights = StoredWeights(bundle.parameters, FORMATS[number_type])
    parts = list(stream_parts(weights, bundle.tokenizer.to_bytes()))
    model = page_model(bundle, parts)
    before, after = page_around(bundle, model)

    def arrays() -> Iterator[NDArray[Any]]:
        for part, entry in zip(parts, model.entries, strict=True):
            yield from part.arrays
            progress("writing the page", entry.end / model.bytes)

    files.write_new(path, itertools.chain([before], elements(arrays()), [after]))
    if number_type != "f32":
        return (f"its weights are rounded to {number_type}: its text can differ from that of `gpt-tui generate`",)
    if model.bytes >= LARGE_BYTES:
        return (
            "a smaller file with rounded weights: `gpt-tui export html` with the type bf16 (half the size) or int8 "
            "(a quarter)",
        )
    return ()


def read_back(path: Path) -> Exported:
    """Return the model that a page holds: its weights in float32, and its tokenizer.

    Raises:
        ExportError: The file is not such a page, or it is damaged.
        OSError: The file cannot be read.
    """
    page = path.read_bytes()
    found = _MODEL.search(page)
    if not found:
        raise ExportError(f"{path} is not a page of gpt-tui")
    model = msgspec.json.decode(found[1], type=PageModel)
    stream = b"".join(base64.b64decode(part, validate=True) for part in _PARTS.findall(page))
    if len(stream) != model.bytes:
        raise ExportError(f"{path} is incomplete: got {len(stream):,} bytes of weights, expected {model.bytes:,}")
    parameters = Parameters(model.shape)
    tokenizer = None
    for entry in model.entries:
        data = stream[entry.start : entry.end]
        if entry.name == TOKENIZER:
            tokenizer = tokenizers.from_bytes(data)
        else:
            parameters[entry.name][...] = _values(entry, data)
    if tokenizer is None:
        raise ExportError(f"{path} has no tokenizer")
    encode = tokenizer.encode
    return Exported(parameters, lambda data: encode(data).tolist(), any_bytes=True)


def check_exportable(bundle: ModelBundle) -> None:
    """Raise ExportError if a page cannot hold the model."""
    count = parameter_count(bundle.settings.shape)
    if count > MAX_PARAMETERS:
        raise ExportError(
            f"the model has {count:,} parameters, expected at most {MAX_PARAMETERS:,} in a page: a larger one is slow "
            "in a browser, and its file too large for a phone; use `gpt-tui export gguf`"
        )
    name = bundle.tokenizer.name
    if name not in TOKENIZERS:
        raise ExportError(
            f"the model has the tokenizer {name!r}, expected {' or '.join(TOKENIZERS)} in a page; "
            "use `gpt-tui export gguf` or `gpt-tui export hf`"
        )


def stream_parts(weights: StoredWeights, tokenizer: bytes) -> Iterator[Part]:
    """Yield the contents of the stream: the tokenizer, then the tensors in the order of the model."""
    yield Part(TOKENIZER, "U8", (len(tokenizer),), (np.frombuffer(tokenizer, np.uint8),))
    for name in weights.tensors:
        yield _tensor_part(name, *weights.plain(name))


def page_model(bundle: ModelBundle, parts: Iterable[Part]) -> PageModel:
    """Return the description of a model whose stream has these parts."""
    entries: list[Entry] = []
    end = 0
    for part in parts:
        start, end = end, end + sum(array.nbytes for array in part.arrays)
        entries.append(Entry(part.name, part.dtype, part.shape, start, end))
    settings = bundle.settings
    sampling = Sampling.from_settings(settings)
    return PageModel(settings.shape, tuple(entries), end, EOS, settings.sample_prompt, sampling)


def page_around(bundle: ModelBundle, model: PageModel) -> tuple[bytes, bytes]:
    """Return the text of the page before and after the elements of the stream."""
    style, app = page_file("page.css"), page_file("app.js")
    text = training_text(bundle)
    policy = (
        f"default-src 'none'; script-src '{_digest(app)}'; style-src '{_digest(style)}'; worker-src blob:; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    values = {
        "policy": policy,
        "title": html.escape(title_of(bundle, text)),
        "about": html.escape(about_text(bundle, text)),
        "version": __version__,
        "style": style,
        "app": app,
        "worker": "".join(page_file(name) for name in WORKER),
        "model": msgspec.json.encode(model).decode().replace("<", "\\u003c"),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: values.get(match[1], match[0]), page_file("index.html"))
    before, _, after = page.encode().partition(b"    {{weights}}\n")
    return before, after


def title_of(bundle: ModelBundle, text: str) -> str:
    """Return the title of the page: the preset of the model, and its training text unless that is ""."""
    preset = bundle.preset_name if bundle.preset_name != CUSTOM else ""
    name = f"{preset} language model".lstrip()
    return f"{name}, trained on {text}" if text else name


def about_text(bundle: ModelBundle, text: str) -> str:
    """Return two sentences that describe the model and its training text, unless that is ""."""
    count = parameter_count(bundle.settings.shape)
    size = f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"
    training = ""
    if bundle.step:
        tuned = "fine-tuned" if bundle.settings.init_from else "trained"
        source = f" on {text}" if text else ""
        score = f" to {bundle.scores.bits_per_byte:.2f} bits per byte of held-out text" if bundle.scores else ""
        training = f", {tuned} for {bundle.step:,} step{'s' * (bundle.step != 1)}{source}{score}"
    return (
        f"A language model of {size} parameters{training}. "
        "It continues text and is not instruction-tuned; it runs in this page, and what you type stays here."
    )


def elements(arrays: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    """Yield the elements of a stream that consists of these arrays: all but the last hold PART_BYTES of it."""
    buffer = bytearray()
    opened, closed = _PART
    for array in arrays:
        buffer += array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        while len(buffer) >= PART_BYTES:
            yield opened + base64.b64encode(buffer[:PART_BYTES]) + closed
            del buffer[:PART_BYTES]
    if buffer:
        yield opened + base64.b64encode(buffer) + closed


@lru_cache
def page_file(name: str) -> str:
    """Return the text of a file in `page/`."""
    return resources.files("gpt_core.bridges").joinpath("page", name).read_text("utf-8")


def _digest(text: str) -> str:
    """Return the hash of an element's text as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _tensor_part(name: str, values: NDArray[Any], scales: Array | None) -> Part:
    if scales is not None:
        return Part(name, "I8C" if scales.shape[0] == 1 else "I8R", values.shape, (scales, values))
    return Part(name, "BF16" if values.dtype == np.uint16 else "F32", values.shape, (values,))


def _values(entry: Entry, data: bytes) -> NDArray[np.float32]:
    """Return the values of a tensor in the stream."""
    if entry.dtype == "F32":
        return np.frombuffer(data, "<f4").reshape(entry.shape)
    if entry.dtype == "BF16":
        return widened(np.frombuffer(data, "<u2")).reshape(entry.shape)
    by_row = entry.dtype == "I8R"
    count = entry.shape[0 if by_row else 1]
    scales, values = np.frombuffer(data[: 4 * count], "<f4"), np.frombuffer(data[4 * count :], np.int8)
    expanded: NDArray[np.float32] = values.reshape(entry.shape) * scales.reshape((-1, 1) if by_row else (1, -1))
    return expanded
