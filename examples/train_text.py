"""Train a model on your own text, and print the loss and a sample."""

from __future__ import annotations

import argparse
from typing import Any

import gpt_core
from gpt_core.training.events import EvalCompleted, StepCompleted

TINY: dict[str, Any] = {"d_model": 32, "hidden_size": 64, "vocab_size": 512, "num_heads": 2, "seq_len": 32, "layers": 2}


def main() -> None:
    """Train until `--max-steps`; Ctrl+C stops earlier and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", help="training text (default: the shipped one)")
    parser.add_argument("--models-dir", default="my-model", help="folder for checkpoints")
    parser.add_argument("--preset", default="nano", help="nano, micro or mini")
    parser.add_argument("--max-steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a very small model")
    options = parser.parse_args()

    run = gpt_core.train(
        options.text, preset=options.preset, models_dir=options.models_dir, max_steps=options.max_steps,
        seed=options.seed, **(TINY if options.tiny else {}),
    )  # fmt: skip
    with run:  # stops and saves the run on every way out
        for event in run:
            if isinstance(event, StepCompleted) and event.step % 10 == 0:
                print(f"step {event.step}: train loss {run.metrics['train_loss']:.3f}")
            if isinstance(event, EvalCompleted):
                print(f"step {event.step}: eval loss {event.loss:.3f}, {event.bits_per_byte:.3f} bits per byte")
        result = run.result()
    print(f"{result.reason} at step {result.step}, saved in {result.checkpoint}")
    prompt = result.model.settings.sample_prompt  # the first words of the held-out text
    print(prompt + result.model.generate(prompt, max_tokens=40, seed=options.seed))


if __name__ == "__main__":
    main()
