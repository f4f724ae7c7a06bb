"""Export to a GGUF file, which llama.cpp and the programs built on it load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gpt_core import files
from gpt_core.bridges import gguf_model
from gpt_core.bridges.architecture import architecture_of
from gpt_core.bridges.gguf_import import tokenizer_of
from gpt_core.bridges.sample_prompt import shown_prompt
from gpt_core.bridges.self_check import Exported
from gpt_core.errors import ExportError, GptError
from gpt_core.formats import gguf
from gpt_core.formats.gguf import GgufError, Tensor, Value
from gpt_core.kernels.arrays import Array
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.layers.embedding import WPE
from gpt_core.model.parameters import Parameters
from gpt_core.progress import Progress
from gpt_core.tokenizers import Tokenizer
from gpt_core.tokenizers.byte_pairs import BytePairTokenizer
from gpt_core.tokenizers.pieces import PieceTokenizer

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}  # `general.file_type`
QUANTIZATION_VERSION = 2
MAX_REPLY = 100  # tokens, of an example
FALLBACK = "f16"  # of matrices whose rows are not complete blocks
MAX_FLOAT16 = 65504.0
MAX_WEIGHTS = {"f16": MAX_FLOAT16, "q8_0": 127 * MAX_FLOAT16}
"""Largest magnitude of a weight by number type; q8_0 has a scale in float16, the largest of a block divided by 127."""


def write_model(bundle: ModelBundle, path: Path, number_type: str, progress: Progress) -> tuple[str, ...]:
    """Write a model to a new file.

    Matrices have the number type; vectors and the position embedding stay float32, as llama.cpp expects.

    Raises:
        ExportError: The format cannot express layers or tokenizer, or weights are too large for the number type.
        OSError: The file cannot be written.
    """
    shape, tensors = bundle.settings.shape, []
    for place in gguf_model.places(shape):
        view = place.view(bundle.parameters[place.parameter])
        tensors.append(Tensor(place.name, view, _number_type(place.parameter, view, number_type)))
    values = {
        "general.architecture": architecture_of(shape),
        "general.type": "model",
        "general.name": f"gpt-tui {bundle.preset_name or 'model'}, step {bundle.step}",
        "general.file_type": FILE_TYPES[number_type],
        "general.quantization_version": QUANTIZATION_VERSION,
        gguf_model.DOCUMENT: bundle.settings.document,
        **gguf_model.shape_values(shape),
        **tokenizer_values(bundle.tokenizer),
    }
    files.write_new(path, _with_progress(gguf.encode(values, tensors), tensors, progress))
    fallback = [tensor.name for tensor in tensors if tensor.number_type == FALLBACK != number_type]
    if not fallback:
        return ()
    block = gguf.NUMBER_TYPES[number_type].block_values
    return (f"{len(fallback)} matrices are {FALLBACK}, because their width is no multiple of {block}",)


def tokenizer_values(tokenizer: Tokenizer) -> dict[str, Value]:
    """Return the keys of a tokenizer. Raises ExportError for one that the format cannot express."""
    if tokenizer.name == PieceTokenizer.name:
        texts, types = gguf_model.token_texts(tokenizer.vocabulary, tokenizer.vocab_size)
        tokens: dict[str, Value] = {"model": gguf_model.LONGEST_MATCH, "tokens": texts, "token_type": types}
    elif isinstance(tokenizer, BytePairTokenizer):
        texts, types = gguf_model.byte_pair_texts(tokenizer)
        merges = [" ".join(pair) for pair in tokenizer.merges]
        tokens = {"model": gguf_model.BYTE_PAIRS, "pre": "gpt-2", "tokens": texts, "token_type": types}
        tokens |= {"merges": merges}
    else:
        raise ExportError(f"tokenizer {tokenizer.name!r} cannot be exported to gguf; train with pieces or bpe")
    ids: dict[str, Value] = {
        "bos_token_id": tokenizer.BOS,
        "eos_token_id": tokenizer.EOS,
        "unknown_token_id": tokenizer.UNK,
        "padding_token_id": tokenizer.PAD,
        "add_bos_token": tokenizer.adds_bos,
        "add_eos_token": False,
    }
    return {f"{gguf_model.TOKENIZER}{key}": value for key, value in (tokens | ids).items()}


def completion_options(bundle: ModelBundle, prompt: str) -> list[str]:
    """Return the options of llama.cpp's `llama-completion` that let a model continue a prompt.

    A reply ends within the context: llama.cpp aborts at a learned position beyond it. The prompt of a tokenizer of
    pieces begins with `<bos>`, which llama.cpp does not add for its model `rwkv`, whatever `add_bos_token` says.
    """
    tokenizer, (text, room) = bundle.tokenizer, shown_prompt(bundle, prompt)
    text = text.replace("\\", "\\\\")
    if tokenizer.name == PieceTokenizer.name:
        text = gguf_model.escaped(gguf_model.special_bytes(tokenizer.BOS)) + text
    return ["-n", str(min(MAX_REPLY, room)), "-p", text]


def read_back(path: Path) -> Exported:
    """Read what `write_model` has written. Raises GptError if it is not that."""
    try:
        with files.open_regular(path) as file:
            header = gguf.read_header(file)
            shape = gguf_model.shape_of(header.values, tied_head=gguf_model.HEAD not in header.tensors)
            parameters = Parameters(shape)
            for place in gguf_model.places(shape):
                gguf.read_tensor(file, header, place.name, place.view(parameters[place.parameter]))
        if header.values[f"{gguf_model.TOKENIZER}model"] == gguf_model.BYTE_PAIRS:
            byte_pairs = tokenizer_of(header.values)
            return Exported(parameters, lambda text: byte_pairs.encode(text).tolist(), any_bytes=False)
        tokens = [gguf_model.unescaped(text) for text in header.values[f"{gguf_model.TOKENIZER}tokens"]]
    except (GgufError, KeyError, ValueError) as error:
        raise GptError(f"self-check of the export failed: {error}") from error
    return Exported(parameters, LongestMatch(tokens).encode, any_bytes=True)


class LongestMatch:
    """Tokenizer model `rwkv` of llama.cpp: the longest token at each position."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._ids = {data: number for number, data in enumerate(tokens)}
        self._longest = max(map(len, tokens))

    def encode(self, data: bytes) -> list[int]:
        """Return the ids of any bytes, each of which is a token."""
        ids, at = [], 0
        while at < len(data):
            ends = range(min(len(data), at + self._longest), at, -1)
            end = next(end for end in ends if data[at:end] in self._ids)
            ids.append(self._ids[data[at:end]])
            at = end
        return ids


def _number_type(name: str, tensor: Array, wanted: str) -> str:
    """Return the number type of a tensor. Raises ExportError for weights that it cannot hold."""
    if tensor.ndim == 1 or name == WPE:
        return "f32"
    row = tensor.shape[1]
    number_type = wanted if row % gguf.NUMBER_TYPES[wanted].block_values == 0 else FALLBACK
    bound = MAX_WEIGHTS.get(number_type, np.inf)
    if (largest := float(np.abs(tensor).max())) > bound:
        raise ExportError(
            f"{name}: got a weight of magnitude {largest:g}, expected at most {bound:,.0f} for {number_type}; "
            "use type f32 or bf16"
        )
    return number_type


def _with_progress(
    parts: Iterator[bytes | memoryview], tensors: Sequence[Tensor], progress: Progress
) -> Iterator[bytes | memoryview]:
    total, done = sum(tensor.bytes for tensor in tensors), 0
    for part in parts:
        progress("writing the GGUF file", min(done / total, 1.0))
        yield part
        done += len(part)
