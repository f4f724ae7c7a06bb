"""Training steps of this project and of PyTorch in turn (A B A B) on one machine: the ratio of the medians.

    python benchmarks/training.py [--shape mini|micro|nano|nanogpt] [--peer-python PATH] [--compile] [--rounds N]

--peer-python is an interpreter that has torch (default: this one). Each round runs both programs once, in separate
processes. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from gpt_core.config.presets import preset
from gpt_core.config.settings import ModelShape
from gpt_core.kernels import available_cores

HERE = Path(__file__).parent
# CPU preset of nanoGPT, with a vocabulary of 65 characters
NANOGPT = ModelShape(d_model=128, hidden_size=512, vocab_size=65, num_heads=4, seq_len=64, layers=4)


def shape_and_batch(name: str) -> tuple[ModelShape, int, int]:
    """Return the shape of the model, sequences per step, and sequences computed at once."""
    if name == "nanogpt":
        return NANOGPT, 12, 12
    settings = preset(name)
    return settings.shape, settings.batch_size, settings.micro_batch


def run(python: str, program: str, shape: ModelShape, batch: int, steps: int, threads: int, *more: str) -> dict:
    """Run one of the two programs and return its figures."""
    options = {name: getattr(shape, name) for name in shape.__struct_fields__}
    options |= {"batch": batch, "steps": steps, "threads": threads}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [python, str(HERE / program), *words, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["nano", "micro", "mini", "nanogpt"], default="mini")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--compile", action="store_true", help="torch.compile the peer")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="measure processor time on one thread, for a machine with other load",
    )
    parser.add_argument(
        "--full-batch",
        action="store_true",
        help="compute the batch in one pass, as the peer does, instead of in the preset's micro-batches",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="steps per round (default: by the shape)")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shape, batch, micro_batch = shape_and_batch(options.shape)
    if options.full_batch:
        micro_batch = batch
    own_words = ["--micro_batch", str(micro_batch)]
    steps = options.steps or (3 if options.shape == "mini" else 30)
    peer_words = ["--compile"] if options.compile else []
    if options.processor_time:
        options.threads = 1
        for words in (own_words, peer_words):
            words.append("--processor_time")
    own: list[dict] = []
    peer: list[dict] = []
    for number in range(options.rounds):
        own.append(run(sys.executable, "own_steps.py", shape, batch, steps, options.threads, *own_words))
        peer.append(run(options.peer_python, "pytorch_peer.py", shape, batch, steps, options.threads, *peer_words))
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    tokens = batch * shape.seq_len

    def figures(rounds: list[dict]) -> dict[str, float]:
        seconds = [value for one in rounds for value in one["seconds"]]
        return {
            "step_s": statistics.median(seconds),
            "tokens_per_s": tokens / statistics.median(seconds),
            "peak_gb": max(one["peak_bytes"] for one in rounds) / 1e9,
        }

    result = {
        "shape": options.shape, "batch": batch, "micro_batch": micro_batch,
        "seq_len": shape.seq_len, "threads": options.threads,
        "level": own[0]["level"], "torch": peer[0]["torch"], "compiled": options.compile,
        "own": figures(own), "peer": figures(peer),
    }  # fmt: skip
    result["speedup"] = result["own"]["tokens_per_s"] / result["peer"]["tokens_per_s"]
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{options.shape}: B={batch}, T={shape.seq_len}, {options.threads} threads, "
        f"{options.rounds} rounds of {steps} steps"
    )
    for name, which in (("gpt-tui", "own"), (f"PyTorch {result['torch']}{' compiled' * options.compile}", "peer")):
        print(
            "{:24} {tokens_per_s:>9,.0f} tokens/s  {step_s:>8.3f} s a step  peak {peak_gb:.2f} GB".format(
                name, **result[which]
            )
        )
    print(f"{'ratio':24} {result['speedup']:>9.2f}")


if __name__ == "__main__":
    main()
