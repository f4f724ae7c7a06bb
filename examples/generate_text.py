"""Generate text from a checkpoint at several temperatures; the same seed gives the same text."""

from __future__ import annotations

import argparse

import gpt_core


def main() -> None:
    """Print one continuation per temperature, piece by piece."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="for example my-model/ckpt_latest.safetensors")
    parser.add_argument("prompt", nargs="?", help="default: that of the samples of the model's run")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8, 1.2])
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    model = gpt_core.load(options.checkpoint)
    print(model)
    prompt = model.settings.sample_prompt if options.prompt is None else options.prompt
    for temperature in options.temperatures:
        print(f"\n--- temperature {temperature}\n{prompt}", end="")
        pieces = model.stream(prompt, max_tokens=options.max_tokens, temperature=temperature, seed=options.seed)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
