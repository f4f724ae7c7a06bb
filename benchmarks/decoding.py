"""Prompt processing and decoding with a KV cache, compared with PyTorch, llama.cpp and the limits of the hardware.

    python benchmarks/decoding.py --preset mini [--weights float32|bfloat16|int8]
                                  [--peer-python /path/to/a/python/with/torch]
                                  [--llama-python /path/to/a/python/with/llama_cpp]

The programs run in turn, round after round; the figures are medians of the rounds' medians, and the shares are of the
read bandwidth and of the SGEMM rate that were measured in the same process. PyTorch computes in float32; llama.cpp
reads the same random weights from a GGUF file of the corresponding type (F32, BF16 or Q8_0).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from gpt_core.bench.benchmark import decoded_tokens, prompt_tokens
from gpt_core.bench.hardware import processor_name
from gpt_core.bridges import gguf_export
from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.settings import SIZES, ModelShape, Settings
from gpt_core.kernels import available_cores
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import initial_parameters
from gpt_core.model.stored_weights import WEIGHT_FORMATS
from gpt_core.progress import ignore_progress
from gpt_core.tokenizers.pieces import PieceTokenizer

HERE = Path(__file__).parent
GGUF_TYPES = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0"}


def run(python: str, program: str, options: dict[str, int], *more: str) -> dict:
    """Run one of the two programs and return its figures."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([python, str(HERE / program), *words, *more], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def medians(rounds: list[dict]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    numbers = [name for name, value in rounds[0].items() if isinstance(value, float)]
    return {name: statistics.median(one[name] for one in rounds) for name in numbers}


def write_gguf(shape: ModelShape, weights: str, path: Path) -> None:
    """Write a model of this shape with random weights, and with a tokenizer of the shipped text."""
    text = (HERE.parent / "data" / "raw" / "train.en").read_bytes()
    tokenizer = PieceTokenizer.train([text], shape.vocab_size)
    settings = msgspec.structs.replace(Settings(), **msgspec.structs.asdict(shape))
    bundle = ModelBundle(settings, initial_parameters(shape, 0), tokenizer)
    gguf_export.write_model(bundle, path, GGUF_TYPES[weights], ignore_progress)


def measured(shape: ModelShape, rounds: int, threads: int, weights: str, torch_python: str, llama_python: str) -> dict:
    """Run the programs in turn; skip those for which no Python is given."""
    sizes = {name: getattr(shape, name) for name in SIZES} | {"threads": threads}
    lengths = {"prompt": prompt_tokens(shape), "decoded": decoded_tokens(shape)}
    runs: dict[str, list[dict]] = {"own": [], "torch": [], "llama": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.gguf")
        if llama_python:
            write_gguf(shape, weights, file)
        llama_sizes = lengths | {"vocab_size": shape.vocab_size, "threads": threads}
        for number in range(rounds):
            runs["own"].append(run(sys.executable, "own_decoding.py", sizes, "--weights", weights))
            if torch_python:
                runs["torch"].append(run(torch_python, "pytorch_decoding.py", sizes | lengths))
            if llama_python:
                runs["llama"].append(run(llama_python, "llama_decoding.py", llama_sizes, "--model", str(file)))
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    result: dict = {**lengths, "threads": threads, "level": runs["own"][0]["level"], "processor": processor_name()}
    result |= {name: medians(found) for name, found in runs.items() if found}
    names = {"own": f"gpt-tui {weights}"}
    if torch_python:
        names["torch"] = f"PyTorch {runs['torch'][0]['torch']} float32"
    if llama_python:
        names["llama"] = f"llama.cpp {runs['llama'][0]['version']} {GGUF_TYPES[weights]}"
    return result | {"names": names}


def main() -> None:
    """Measure and print a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=[*PRESETS], default="mini")
    parser.add_argument("--peer-python", default="", help="a Python that has torch (default: without the peer)")
    parser.add_argument("--llama-python", default="", help="a Python that has llama_cpp (default: without llama.cpp)")
    parser.add_argument("--weights", choices=WEIGHT_FORMATS, default="float32", help="format of this project's weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measured(
        preset(options.preset).shape, options.rounds, options.threads, options.weights, options.peer_python,
        options.llama_python,
    )  # fmt: skip
    if options.json:
        print(json.dumps({"preset": options.preset, "weights": options.weights, **result}))
        return
    print(f"{result['processor']}, kernels for {result['level']}; {options.preset}: a prompt of {result['prompt']} "
          f"tokens, then {result['decoded']} decoded one by one, {options.threads} threads")  # fmt: skip
    for which, name in result["names"].items():
        rates = [
            f"{what} {count / result[which][key]:>7,.1f} tokens/s (ratio {result[which][key] / result['own'][key]:.2f})"
            for what, count, key in (("decoding", 1, "token_s"), ("prompt", result["prompt"], "prompt_s"))
        ]
        print(f"{name:28} {'   '.join(rates)}")
    own = result["own"]
    print(f"decoding: {own['read_share']:.0%} of the read bandwidth, {own['read_gb_per_s']:.1f} GB/s; "
          f"prompt: {own['sgemm_share']:.0%} of the SGEMM rate, {own['sgemm_gflop_per_s']:.0f} GFLOP/s")  # fmt: skip


if __name__ == "__main__":
    main()
