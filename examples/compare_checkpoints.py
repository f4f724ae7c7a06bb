"""Evaluate two checkpoints on the same text.

Loss and perplexity compare only models with the same tokenizer; bits per byte compares any two.
"""

from __future__ import annotations

import argparse

import gpt_core


def main() -> None:
    """Print a table with one row per checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", help="checkpoint")
    parser.add_argument("second", help="checkpoint")
    parser.add_argument("text", help="text to evaluate on, which neither model was trained on")
    options = parser.parse_args()

    models = [gpt_core.load(path) for path in (options.first, options.second)]
    print("  step    loss  perplexity  accuracy  bits per byte  checkpoint")
    for model in models:
        score = model.evaluate(options.text)
        print(
            f"{model.step:6,}  {score.loss:6.3f}  {score.perplexity:10.2f}  {score.accuracy:8.1%}  "
            f"{score.bits_per_byte:13.3f}  {model.bundle.path}"
        )
    if models[0].tokenizer.sha256 != models[1].tokenizer.sha256:
        print("the tokenizers differ: compare bits per byte only")


if __name__ == "__main__":
    main()
