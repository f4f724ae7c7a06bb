"""Prompt processing and decoding with this project on random tokens: the counterpart of `pytorch_decoding.py`.

Prints one line of JSON. The limits of the machine are measured in between.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from gpt_core.bench.benchmark import decoded_tokens, measure_inference, prompt_result, prompt_tokens
from gpt_core.bench.hardware import sgemm_meter
from gpt_core.config.settings import SIZES, ModelShape
from gpt_core.kernels import LEVEL, threads
from gpt_core.model.memory import decode_bytes
from gpt_core.model.parameters import initial_parameters
from gpt_core.model.stored_weights import WEIGHT_FORMATS, StoredWeights

METER_S = 0.5


def main() -> None:
    """Measure a few rounds and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in (*SIZES, "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--weights", choices=WEIGHT_FORMATS, default="float32")
    options = parser.parse_args()
    threads.set_threads(options.threads)
    shape = ModelShape(**{name: getattr(options, name) for name in SIZES})
    prompt, decoded = prompt_tokens(shape), decoded_tokens(shape)
    tokens = np.random.default_rng(0).integers(shape.vocab_size, size=prompt + decoded, dtype=np.int32)
    sgemm = sgemm_meter()
    sgemm.repeat_until(METER_S)
    weights = StoredWeights(initial_parameters(shape, 0), options.weights)
    reading = measure_inference(weights, tokens.tolist(), lambda _words, _share: None)
    sgemm.repeat_until(2 * METER_S)
    read = decode_bytes(shape, prompt + decoded // 2, options.weights) / reading.token_s
    figures = {
        "prompt_s": reading.prompt_s, "token_s": reading.token_s, "level": LEVEL,
        "sgemm_share": prompt_result(shape, reading.prompt_s, sgemm.rate).sgemm_share,
        "read_share": read / reading.bytes_per_s, "read_gb_per_s": reading.bytes_per_s / 1e9,
        "sgemm_gflop_per_s": sgemm.rate / 1e9,
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
