"""Texts and tokenizers shared by the tests of tokenizers and text modules."""

import numpy as np

from gpt_core import tokenizers
from gpt_core.tokenizers.pieces import PieceTokenizer

PROSE = b'The quick brown fox jumps over the lazy dog; the dog, he said, "doesn\'t" mind.\nAnd the fox?\r\n' * 20
WORLD = "Ναι, это \u4f60\u597d\u4e16\u754c नमस्ते \U0001f600\U0001f600 déjà vu — «oui»\u00a0! ".encode() * 20
LINES = b"The first paragraph\nof two lines.\n\nThe second one.\r\n\r\n\xff\0 bytes \xf0\x9f\x98\x80\n\n" * 40
ENDS = np.empty(0, dtype=np.int64)  # a text of one part

PIECES = PieceTokenizer([b"The ", b"par", b"ph", b"of ", b"line", b".\n"], 300)


def trained(text, vocab_size=400, name="pieces"):
    return tokenizers.train(name, [text], vocab_size)
