"""Folders of GPT-2 models as transformers writes them, made without transformers, and texts in several scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_core.bridges import huggingface
from gpt_core.config.settings import ModelShape
from gpt_core.formats import safetensors
from gpt_core.model.parameters import parameter_table
from gpt_core.tokenizers.byte_pairs import BytePairTokenizer

ENGLISH = "It was the best of times, it was the worst of times; she hadn't said it's 42 o'clock, they'd say.\n\n"
GERMAN = "Der Käfer läuft über die Straße – „schön“, sagte er, und größer wär's nicht gegangen.\n"
CHINESE = "你好，世界。今天天气很好，我们去公园散步吧！\n"
CODE = "def f(x: int) -> int:\n    return x ** 2  # a\tcomment\n\n\nfor (i = 0; i < 10; ++i) { a[i] = 0x1F; }\n"
MIXED = "🙂🙂 naïve ﷽ \u200d é नमस्ते \r\n\t  \u00a0end   "
TEXTS = {"English": ENGLISH * 5, "German": GERMAN * 5, "Chinese": CHINESE * 5, "code": CODE * 5, "mixed": MIXED * 3}
SHAPE = ModelShape(d_model=16, hidden_size=64, vocab_size=400, num_heads=2, seq_len=32, layers=2)

Tensors = dict[str, NDArray[Any]]


@cache
def byte_pairs(vocab_size: int = SHAPE.vocab_size) -> BytePairTokenizer:
    """Return a tokenizer that was trained on the texts."""
    return BytePairTokenizer.train([text.encode() for text in TEXTS.values()], vocab_size)


def tensors_of(shape: ModelShape, seed: int = 0) -> Tensors:
    """Return random weights by the names of a `GPT2LMHeadModel`."""
    draw = np.random.default_rng(seed)
    return {
        huggingface.PREFIX + spec.name: (draw.standard_normal(spec.shape) * 0.1).astype(np.float32)
        for spec in parameter_table(shape)
    }


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper 16 bits of each value, which is a bfloat16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file; arrays of 16-bit integers are bfloat16, those of bytes float8."""
    types = {
        "float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "bool": "BOOL", "uint8": "F8_E4M3",
    }  # fmt: skip
    layout = safetensors.layout_of((name, types[str(array.dtype)], array.shape) for name, array in tensors.items())
    data = b"".join(array.tobytes() for array in tensors.values())
    path.write_bytes(safetensors.encode_header(layout, {"format": "pt"}) + data)


def tokenizer_file(tokenizer: BytePairTokenizer) -> dict[str, Any]:
    """Return the contents of `tokenizer.json`."""
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": token, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True} for token, name in tokenizer.special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {name: token for token, name in enumerate(tokenizer.tokens)},
            "merges": [list(pair) for pair in tokenizer.merges],
        },
    }  # fmt: skip


def write_folder(
    folder: Path,
    shape: ModelShape = SHAPE,
    *,
    tensors: Tensors | None = None,
    config: Mapping[str, Any] = {},
    shards: int = 1,
    tokenizer_json: bool = True,
) -> Tensors:
    """Write the folder of a model, and return its tensors.

    Args:
        folder: Folder to make.
        shape: Shape of the model.
        tensors: Weights; None for random ones.
        config: Keys of `config.json` that differ.
        shards: Number of weight files.
        tokenizer_json: False for `vocab.json` with `merges.txt`.
    """
    folder.mkdir(parents=True)
    tokenizer = byte_pairs(shape.vocab_size)
    write_json(folder / "config.json", huggingface.config(shape, tokenizer) | config)
    tensors = tensors_of(shape) if tensors is None else tensors
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
    else:
        files = {
            name: f"model-{number % shards + 1:05}-of-{shards:05}.safetensors" for number, name in enumerate(tensors)
        }
        for file in set(files.values()):
            write_safetensors(folder / file, {name: tensors[name] for name in tensors if files[name] == file})
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": files})
    if tokenizer_json:
        write_json(folder / "tokenizer.json", tokenizer_file(tokenizer))
    else:
        write_json(folder / "vocab.json", {name: token for token, name in enumerate(tokenizer.tokens)})
        merges = "".join(f"{left} {right}\n" for left, right in tokenizer.merges)
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    return tensors


def add_token(folder: Path, name: str) -> int:
    """Put an added token in the place of the last merge of a folder with `vocab.json`, and return its id."""
    tokenizer = byte_pairs()
    last, merges = "".join(tokenizer.merges[-1]), (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    write_json(folder / "added_tokens.json", {name: (token := vocabulary.pop(last))})
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(merges[:-1]), encoding="utf-8")
    return token


def write_json(path: Path, contents: object) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(contents), encoding="utf-8")


def change_json(path: Path, *keys: str, to: object) -> None:
    """Change one value in a JSON file."""
    contents = json.loads(path.read_text(encoding="utf-8"))
    inner = contents
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    write_json(path, contents)
