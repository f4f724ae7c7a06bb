"""Show how a text is split into tokens, and the probability that the model gave to each of them."""

from __future__ import annotations

import argparse

import numpy as np

import gpt_core
from gpt_core.generation.generator import with_bos


def main() -> None:
    """Print one row per token: its id, its text, its probability, and the most probable token in its place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="for example my-model/ckpt_latest.safetensors")
    parser.add_argument("text", nargs="?", default="It was a truth")
    options = parser.parse_args()

    model = gpt_core.load(options.checkpoint)
    tokenizer = model.tokenizer
    ids = with_bos(tokenizer, tokenizer.encode(options.text.encode()).tolist())[: model.settings.seq_len + 1]
    if len(ids) < 2:
        parser.error(f"text: got {options.text!r}, expected a longer text: there is no token to predict")
    logits = model.logits(ids[:-1]).astype(np.float64)  # (T, V): row t scores the token after ids[t]
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))  # softmax, shifted so that exp cannot overflow
    probabilities /= probabilities.sum(axis=1, keepdims=True)

    print("    id  token           probability  most probable")
    for token, row in zip(ids[1:], probabilities, strict=True):
        best = int(row.argmax())
        text, best_text = tokenizer.describe(token), tokenizer.describe(best)
        print(f"{token:6d}  {text:14s}  {row[token]:11.4f}  {best_text} ({row[best]:.4f})")


if __name__ == "__main__":
    main()
