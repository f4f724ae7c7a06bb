"""Prompt processing and decoding with a KV cache, compared with PyTorch and with the limits of the hardware.

    python benchmarks/decoding.py --preset mini --peer-python /path/to/a/python/with/torch

The two programs run in turn, round after round; the figures are medians of the rounds' medians, and the shares are of
the read bandwidth and of the SGEMM rate that were measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from gpt_core.bench.benchmark import decoded_tokens, prompt_tokens
from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.settings import ModelShape
from gpt_core.kernels import available_cores
from gpt_core.model.stored_weights import WEIGHT_FORMATS

HERE = Path(__file__).parent


def run(python: str, program: str, options: dict[str, int], *more: str) -> dict:
    """Run one of the two programs and return its figures."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([python, str(HERE / program), *words, *more], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def medians(rounds: list[dict]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    numbers = [name for name, value in rounds[0].items() if isinstance(value, float)]
    return {name: statistics.median(one[name] for one in rounds) for name in numbers}


def measured(shape: ModelShape, rounds: int, threads: int, peer_python: str, weights: str) -> dict:
    """Run both programs in turn; skip PyTorch if no Python is given for it."""
    sizes = {name: getattr(shape, name) for name in shape.__struct_fields__} | {"threads": threads}
    lengths = {"prompt": prompt_tokens(shape), "decoded": decoded_tokens(shape)}
    own: list[dict] = []
    peer: list[dict] = []
    for number in range(rounds):
        own.append(run(sys.executable, "own_decoding.py", sizes, "--weights", weights))
        if peer_python:
            peer.append(run(peer_python, "pytorch_decoding.py", sizes | lengths))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    result = {**lengths, "threads": threads, "level": own[0]["level"], "own": medians(own)}
    if peer:
        result |= {"torch": peer[0]["torch"], "peer": medians(peer)}
        result |= {
            f"{what}_speedup": result["peer"][f"{what}_s"] / result["own"][f"{what}_s"] for what in ("prompt", "token")
        }
    return result


def main() -> None:
    """Measure and print a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=[*PRESETS], default="mini")
    parser.add_argument("--peer-python", default="", help="a Python that has torch (default: without the peer)")
    parser.add_argument("--weights", choices=WEIGHT_FORMATS, default="float32", help="format of this project's weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measured(
        preset(options.preset).shape, options.rounds, options.threads, options.peer_python, options.weights
    )
    if options.json:
        print(json.dumps({"preset": options.preset, **result}))
        return
    print(f"{options.preset}: a prompt of {result['prompt']} tokens, then {result['decoded']} decoded one by one, "
          f"{options.threads} threads")  # fmt: skip
    for name, which in (("gpt-tui", "own"), (f"PyTorch {result.get('torch')}", "peer")):
        if which in result:
            figures = result[which]
            print(f"{name:20} decoding {1 / figures['token_s']:>9,.1f} tokens/s   "
                  f"prompt {result['prompt'] / figures['prompt_s']:>9,.0f} tokens/s")  # fmt: skip
    if "peer" in result:
        print(
            f"{'ratio':20} decoding {result['token_speedup']:>9.2f}            prompt {result['prompt_speedup']:>9.2f}"
        )
    own = result["own"]
    print(f"decoding: {own['read_share']:.0%} of the read bandwidth, {own['read_gb_per_s']:.1f} GB/s; "
          f"prompt: {own['sgemm_share']:.0%} of the SGEMM rate, {own['sgemm_gflop_per_s']:.0f} GFLOP/s")  # fmt: skip


if __name__ == "__main__":
    main()
