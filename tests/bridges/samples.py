"""Models and texts for the tests of exports."""

from __future__ import annotations

import random
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gpt_core import tokenizers
from gpt_core.api import Model, train
from gpt_core.config.settings import QWEN3, Settings
from gpt_core.generation.sampler import Sampling
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import initial_parameters
from gpt_core.model.scores import EvalScores
from tests.program import ROOT

SHAPE = Settings(
    d_model=64, hidden_size=96, vocab_size=1000, num_heads=4, seq_len=64, layers=2, train_file="/home/me/My | text.txt",
)  # fmt: skip

LAYERS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2 with its own head": {"tied_head": False},
    "gpt2 without biases": {"bias": False},
    "qwen3": QWEN3,
    "qwen3 with its own head": {**QWEN3, "tied_head": False},
    "no architecture": {"norm": "rms_norm", "qk_norm": True, "mlp": "relu_squared", "x0_shortcut": True},
}
"""Choices of layers; the last have no counterpart in other programs."""

needs_tokenizers = pytest.mark.skipif(find_spec("tokenizers") is None, reason="tokenizers is not installed")
GREEDY = Sampling(max_tokens=40, temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0)

GERMAN = (
    "Ich weiß nicht, was soll es bedeuten, daß ich so traurig bin; ein Mährchen aus alten Zeiten, das kommt mir nicht "
    "aus dem Sinn. „Grüß Gott“, sagte er – und öffnete die Tür.\n"
)
CHINESE = (
    "子曰：“学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？”\n"
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n"
)
MORE = (
    "Всё смешалось в доме Облонских. Ελλάδα, שלום, नमस्ते, สวัสดี 👩\u200d🔬🇩🇪\u00a0\u3000\u200b naïve ﬁ\r\n\t"
    "İı \u212a\x00\x7f\x85\x1c "
)


@cache
def texts() -> dict[str, str]:
    """Return a text per language, a program, and random text, by name."""
    english = (ROOT / "data" / "raw" / "train.en").read_bytes()[:20_000].decode("utf-8", "ignore")
    chosen = random.Random(1)
    alphabet = [*map(chr, range(0x250)), *"thea  \n\r.,0<>", *MORE, *CHINESE]
    return {
        "English": english,
        "German": GERMAN * 3,
        "Chinese": CHINESE * 3,
        "code": Path(__file__).read_text(encoding="utf-8"),
        "other scripts": MORE,
        "special names": "<bos> <eos><pad> <unk> [UNK] <|endoftext|> <0x0A> [EMPTY_0] ▁ Ġthe Ċ",
        "random": "".join(chosen.choice(alphabet) for _ in range(4000)),
        "long words": "x" * 700
        + "=" * 700
        + " " * 700
        + "学" * 200
        + "".join(chosen.choices(CHINESE + "ACGT", k=3000)),
        "empty": "",
    }


def random_bytes() -> bytes:
    """Return bytes that are no text."""
    return random.Random(2).randbytes(3000) + bytes(range(256))


PROMPTS = ("It was the ", "He said to the ", "Ich weiß nicht, ", "def ")
"""Prompts whose last word is complete: what follows does not change how they are tokenized"""


def trained_model(folder: Path) -> Model:
    """Train a model on the texts until it continues them."""
    text = folder / "train.txt"
    text.write_text(
        "\n\n".join([texts()["English"][:3000], texts()["German"], texts()["Chinese"]]) * 4, encoding="utf-8"
    )
    names = ("d_model", "hidden_size", "vocab_size", "num_heads", "seq_len", "layers")
    shape = {name: getattr(SHAPE, name) for name in names}
    run = train(
        text, **shape, preset="nano", max_steps=200, warmup_steps=10, models_dir=folder / "models", sample_tokens=0,
        eval_every_steps=0, precision="float32",
    )  # fmt: skip
    return run.result().model


@cache
def model(tokenizer: str = "pieces", **settings: Any) -> ModelBundle:
    """Return a model with random weights, large enough that its predictions differ, and a trained tokenizer."""
    values = msgspec.structs.replace(SHAPE, tokenizer=tokenizer, **settings)
    chunks = [text.encode() for name, text in texts().items() if name != "random"]
    parameters = initial_parameters(values.shape, seed=3)
    chosen = np.random.default_rng(4)
    for tensor in parameters.tensors.values():
        tensor *= 4.0 if tensor.ndim == 2 else 1.0
        tensor += 0.0 if tensor.ndim == 2 else 0.2 * chosen.standard_normal(tensor.shape, np.float32)
    return ModelBundle(
        values, parameters, tokenizers.train(tokenizer, chunks, values.vocab_size), 1200, "custom",
        EvalScores(1200, 2.5, 0.4, 1.9), corpus_sha256="ab" * 32,
    )  # fmt: skip
