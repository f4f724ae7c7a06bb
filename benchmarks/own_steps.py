"""Training steps of this project on random tokens: the counterpart of `pytorch_peer.py`, with the same output."""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from gpt_core.config.settings import SIZES, ModelShape, Settings
from gpt_core.kernels import LEVEL, adamw, threads
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters, initial_parameters
from gpt_core.optim.adamw import AdamW


def main() -> None:
    """Time forward, backward, clipping and AdamW; the first step is a warmup."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in (*SIZES, "batch", "steps", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--micro_batch", type=int, default=0, help="sequences per micro-batch (default: all)")
    parser.add_argument("--processor_time", action="store_true", help="measure processor time instead of elapsed time")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    now = time.process_time if options.processor_time else time.perf_counter
    threads.set_threads(options.threads)
    shape = ModelShape(**{name: getattr(options, name) for name in SIZES})
    parameters, gradients = initial_parameters(shape, 0), Parameters(shape)
    gpt, optimizer = GPT(parameters, options.precision), AdamW(parameters, Settings())
    random = np.random.default_rng(0)
    tokens, targets = random.integers(shape.vocab_size, size=(2, options.batch, shape.seq_len), dtype=np.int32)
    seconds, at_once = [], options.micro_batch or options.batch
    for step in range(1, options.steps + 2):
        started = now()
        gradients.flat.fill(0.0)
        loss_sum = 0.0
        for first in range(0, options.batch, at_once):
            rows = slice(first, first + at_once)
            loss_sum += gpt.loss_and_gradients(tokens[rows], targets[rows], gradients, 1.0 / targets.size)[0]
        optimizer.update(gradients, step, 1.0, optimizer.clip_scale(adamw.norm(gradients.flat)))
        seconds.append(now() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds[1:], "peak_bytes": peak, "loss": loss_sum / targets.size, "level": LEVEL}))


if __name__ == "__main__":
    main()
