"""Look inside a model: what each layer predicts, which heads matter, and what the prediction depends on."""

from __future__ import annotations

import argparse

import numpy as np

import gpt_core
from gpt_core import interpret
from gpt_core.generation.generator import sampled_ids, with_bos


def main() -> None:
    """Print three tables: the logit lens of the last token, the heads by their effect, and the attribution."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="for example my-model/ckpt_latest.safetensors")
    parser.add_argument("text", nargs="?", default="It was a truth")
    options = parser.parse_args()

    bundle = gpt_core.load(options.checkpoint).bundle
    model, tokenizer, describe = bundle.gpt(), bundle.tokenizer, bundle.tokenizer.describe
    ids = with_bos(tokenizer, tokenizer.encode(options.text.encode()).tolist())[: model.shape.seq_len]
    if len(ids) < 2:
        parser.error(f"text: got {options.text!r}, expected a longer text: there is no token to predict")
    tokens = np.array([ids], np.int32)  # (B, T)

    print("after             next token")
    lens = interpret.logit_lens(model, tokens)
    for place, best, p in zip(lens.places, lens.ids[:, 0, -1, 0], lens.probabilities[:, 0, -1, 0], strict=True):
        print(f"{place:16s}  {describe(int(best))} ({p:.3f})")

    heads = [part for part in interpret.all_parts(model.shape) if part.kind == "head"]
    repeated = interpret.repeated_tokens(np.flatnonzero(sampled_ids(tokenizer)), model.shape.seq_len // 2)
    scores = interpret.head_scores(model, tokens, repeated)
    print("\nhead             previous  induction  change of loss without it")
    effects = interpret.ablations(model, tokens[:, :-1], tokens[:, 1:], heads)
    for part, _, change in sorted(effects, key=lambda effect: -effect.change):
        at = part.layer, part.head
        print(f"{part.name:16s} {scores.previous_token[at]:8.3f}  {scores.induction[at]:9.3f}  {change:+.4f}")

    best = interpret.next_tokens(model, tokens, 1).ids[:, -1, 0]  # (B,)
    print(f"\ntoken           attribution for {describe(int(best[0]))}")
    for token, score in zip(ids, interpret.attribution(model, tokens, best)[0], strict=True):
        print(f"{describe(token):14s}  {score:+.4f}")


if __name__ == "__main__":
    main()
