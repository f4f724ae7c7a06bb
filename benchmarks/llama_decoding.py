"""Prompt processing and decoding of a GGUF file with llama.cpp on the CPU: the counterpart of `own_decoding.py`.

Run by `benchmarks/decoding.py`, in a separate environment with llama-cpp-python; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

import llama_cpp

ROUNDS = 5  # after one warm-up round


def main() -> None:
    """Measure a few rounds of prompt processing and decoding, and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    for name in ("vocab_size", "prompt", "decoded", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    length = options.prompt + options.decoded
    model = llama_cpp.Llama(
        options.model, n_ctx=length, n_batch=options.prompt, n_ubatch=options.prompt, n_threads=options.threads,
        n_threads_batch=options.threads, verbose=False,
    )  # fmt: skip
    tokens = random.Random(0).choices(range(4, options.vocab_size), k=length)
    prompts: list[float] = []
    decoded: list[float] = []
    for _ in range(ROUNDS + 1):
        model.reset()
        started = time.perf_counter()
        model.eval(tokens[: options.prompt])
        prompts.append(time.perf_counter() - started)
        for token in tokens[options.prompt :]:
            started = time.perf_counter()
            model.eval([token])
            decoded.append(time.perf_counter() - started)
    figures = {
        "prompt_s": statistics.median(prompts[1:]),
        "token_s": statistics.median(decoded[options.decoded :]),
        "version": llama_cpp.__version__,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
