"""Training steps of this project on random tokens: the counterpart of `pytorch_peer.py`, with the same output."""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from gpt_core.config.settings import SIZES, ModelShape, Settings
from gpt_core.distributed.communicator import SINGLE_PROCESS
from gpt_core.kernels import LEVEL, adamw, threads
from gpt_core.model.gpt import GPT, Gradients
from gpt_core.model.parameters import Parameters, initial_parameters
from gpt_core.optim.adamw import AdamW
from gpt_core.training.gradient_sum import GradientSum, LayerDone


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
    at_once = options.micro_batch or options.batch
    sums = GradientSum(gradients, options.batch // at_once, SINGLE_PROCESS)

    def micro_batch(number: int, gradients: Gradients, layer_done: LayerDone | None) -> float:
        rows = slice(number * at_once, (number + 1) * at_once)
        weight = 1.0 / targets.size
        return gpt.loss_and_gradients(tokens[rows], targets[rows], gradients, weight, layer_done=layer_done)[0]

    seconds = []
    for step in range(1, options.steps + 2):
        started = now()
        loss_sum = sums.of_step(micro_batch)
        assert loss_sum is not None
        optimizer.update(gradients, step, 1.0, optimizer.clip_scale(adamw.norm(gradients.flat)))
        seconds.append(now() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds[1:], "peak_bytes": peak, "loss": loss_sum / targets.size, "level": LEVEL}))


if __name__ == "__main__":
    main()
