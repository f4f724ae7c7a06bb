"""Self-check of an exported model: its file is read back and compared with the model.

Three comparisons: the weights, each within the rounding of its number type; the token ids of a probe text; the logits
of its first tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import numpy as np

from gpt_core.errors import GptError
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters
from gpt_core.tokenizers import Tokenizer

LOGITS_TOKENS = 64  # tokens of the probe whose logits are compared, at most
MAX_LOGITS_DIFFERENCE = 1e-4  # for weights that are not rounded

# Relative to the largest magnitude in a tensor. int8 and Q8_0 have a scale per output or block of at most that / 127,
# and round to half of it; Q8_0 rounds the scale, too, to float16.
ROUNDING = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 0.51 / 127 + 2.0**-11, "int8": 0.51 / 127}
"""Largest error of a stored weight, by number type"""
SMALLEST_FLOAT16 = 2.0**-24
SUBNORMAL_ERROR = {"f16": SMALLEST_FLOAT16, "q8_0": 127 * SMALLEST_FLOAT16}
"""Additional error of numbers or scales below the normal range of float16"""

PROBE = """\
It was the best of times, it was the worst of times. "Don't!" she said (twice), and then: 1,234.5 > 0?

  Über den Wolken muß die Freiheit wohl grenzenlos sein, äöüß ÄÖÜ, „so“ – sagte er.
人们说，今天的天气很好。我们去北京看朋友吧！東京タワーは高いです。
Всё хорошо, прекрасная маркиза. Καλημέρα κόσμε. שלום עולם. नमस्ते दुनिया. สวัสดีชาวโลก
def fold(xs: list[int]) -> int:\r\n\treturn sum(x**2 for x in xs if x % 2 == 0)  # <b>&amp;</b> {"a": [1, 2]}
👩‍🔬 naïve café ﬁ … \u00a0\u2003\u3000 \u200b zzzzzzzzzz\x00\x7f\x85 <bos><eos><unk><pad><|endoftext|>\n\n\n   \t"""


class Exported(NamedTuple):
    """An exported model as its own file holds it.

    Attributes:
        parameters: Weights, in float32.
        encode: Tokenizer of the file, as another program runs it; without special ids.
        any_bytes: True if it encodes any bytes, False if text alone.
    """

    parameters: Parameters
    encode: Callable[[bytes], Sequence[int]]
    any_bytes: bool


class SelfCheck(NamedTuple):
    """Result of a self-check that passed.

    Attributes:
        ids: Token ids of the probe, all equal.
        tokens: Tokens of the probe whose logits were compared.
        largest_difference: Largest absolute difference of their logits.
    """

    ids: int
    tokens: int
    largest_difference: float


def check_export(bundle: ModelBundle, exported: Exported, number_type: str = "f32") -> SelfCheck:
    """Compare a model with what was read back from its export.

    Args:
        bundle: The model.
        exported: What the file holds.
        number_type: Number type of the matrices in the file, a key of `ROUNDING`.

    Raises:
        GptError: They differ; the file must not be used.
    """
    check_weights(bundle.parameters, exported.parameters, number_type)
    ids = check_ids(bundle.tokenizer, exported)
    probe = np.array([bundle.tokenizer.BOS, *ids], np.int32)[None, : min(LOGITS_TOKENS, bundle.settings.seq_len)]
    difference = np.abs(GPT(exported.parameters).logits(probe) - GPT(bundle.parameters).logits(probe))
    largest = float(difference.max())
    if not np.isfinite(largest) or (ROUNDING[number_type] == 0.0 and largest > MAX_LOGITS_DIFFERENCE):
        _failed(f"logits differ by {largest:g}, expected at most {MAX_LOGITS_DIFFERENCE:g}")
    return SelfCheck(len(ids), probe.size, largest)


def check_weights(weights: Parameters, stored: Parameters, number_type: str) -> None:
    """Raise GptError unless each stored tensor equals the model's within the rounding of the number type."""
    for name, tensor in weights.tensors.items():
        largest = float(np.abs(tensor).max())
        bound = ROUNDING[number_type] * largest + SUBNORMAL_ERROR.get(number_type, 0.0)
        error = float(np.abs(tensor - stored[name]).max())
        if not error <= bound:  # NaN, too
            _failed(f"{name} differs by {error:g}, expected at most {bound:g}")


def check_ids(tokenizer: Tokenizer, exported: Exported) -> list[int]:
    """Return the ids of the probe, after they were compared. Raises GptError if they differ."""
    probe = probe_text(tokenizer) + (bytes(range(256)) if exported.any_bytes else b"")
    ids: list[int] = tokenizer.encode(probe).tolist()
    found = list(exported.encode(probe))
    if found != ids:
        first = next((at for at, pair in enumerate(zip(found, ids, strict=False)) if pair[0] != pair[1]), -1)
        _failed(f"token ids of the probe differ: got {len(found)}, expected {len(ids)}, first difference at {first}")
    return ids


def probe_text(tokenizer: Tokenizer) -> bytes:
    """Return text in several languages, and every token of the vocabulary that is text by itself."""
    return PROBE.encode() + b"".join(token for token in tokenizer.vocabulary if _is_text(token))


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def _failed(what: str) -> NoReturn:
    raise GptError(f"self-check of the export failed: {what}; nothing was written. This is a defect: please report it")
