"""Time of an evaluation relative to its forward pass; the rest is loss and most likely token of each position.

    python benchmarks/evaluation.py [--preset nano|micro|mini] [--rounds N]

Alternates both on one batch of the preset's shape with random weights and tokens; prints the ratio of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from gpt_core.config.presets import PRESETS, preset
from gpt_core.kernels import available_cores, threads
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import initial_parameters


def main() -> None:
    """Measure and print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="micro")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    threads.set_threads(available_cores())
    settings = preset(options.preset)
    gpt, shape = GPT(initial_parameters(settings.shape, 0)), settings.shape
    batch = (2, settings.micro_batch, shape.seq_len)
    tokens, targets = np.random.default_rng(0).integers(shape.vocab_size, size=batch, dtype=np.int32)

    def forward() -> None:
        x = gpt.forward(tokens)
        deque(gpt.transformer.head.logits_by_slice(x), maxlen=0)

    ways: tuple[Callable[[], object], ...] = (forward, lambda: gpt.evaluate(tokens, targets))
    seconds: list[list[float]] = [[], []]
    for _ in range(options.rounds + 1):
        for way, taken in zip(ways, seconds, strict=True):
            started = time.perf_counter()
            way()
            taken.append(time.perf_counter() - started)
    alone, scored = (statistics.median(taken[1:]) for taken in seconds)
    print(f"{options.preset}: forward {alone:.4f} s, evaluation {scored:.4f} s: {scored / alone:.3f} times")


if __name__ == "__main__":
    main()
