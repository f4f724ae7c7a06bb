"""Training steps of this project and of PyTorch in turn (A B A B) on one machine: the ratio of the medians.

    python benchmarks/training.py [--shape mini|micro|nano|nanogpt|gpt2] [--peer-python PATH] [--compile] [--rounds N]
                                  [--precision float32|bfloat16] [--no-peer]

--precision is that of both programs. The project's float32 steps are then timed in the same rounds, and so are the
limits of the machine: large products in float32 and bfloat16. --no-peer leaves PyTorch out.

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

from gpt_core.bench.hardware import bfloat16_meter, processor_name, sgemm_meter
from gpt_core.config.presets import preset
from gpt_core.config.settings import SIZES, ModelShape
from gpt_core.kernels import available_cores, threads
from gpt_core.model.flops import step_flops

HERE = Path(__file__).parent
# CPU preset of nanoGPT, with a vocabulary of 65 characters
NANOGPT = ModelShape(d_model=128, hidden_size=512, vocab_size=65, num_heads=4, seq_len=64, layers=4)
# GPT-2 124M, fine-tuned with a context of 512
GPT2 = ModelShape(d_model=768, hidden_size=3072, vocab_size=50257, num_heads=12, seq_len=512, layers=12)


def shape_and_batch(name: str) -> tuple[ModelShape, int, int]:
    """Return the shape of the model, sequences per step, and sequences computed at once."""
    if name == "nanogpt":
        return NANOGPT, 12, 12
    if name == "gpt2":
        return GPT2, 4, 1
    settings = preset(name)
    return settings.shape, settings.batch_size, settings.micro_batch


def run(python: str, program: str, shape: ModelShape, batch: int, steps: int, n_threads: int, *more: str) -> dict:
    """Run one of the two programs and return its figures."""
    options = {name: getattr(shape, name) for name in SIZES}
    options |= {"batch": batch, "steps": steps, "threads": n_threads}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [python, str(HERE / program), *words, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["nano", "micro", "mini", "nanogpt", "gpt2"], default="mini")
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
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--no-peer", action="store_true", help="do not run PyTorch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="steps per round (default: by the shape)")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result) if options.json else report(result))


def measure(options: argparse.Namespace) -> dict:
    """Run the programs in turn, and measure the machine's limits between them."""
    shape, batch, micro_batch = shape_and_batch(options.shape)
    if options.full_batch:
        micro_batch = batch
    steps = options.steps or (3 if options.shape in ("mini", "gpt2") else 30)
    common = ["--processor_time"] if options.processor_time else []
    n_threads = 1 if options.processor_time else options.threads
    threads.set_threads(n_threads)
    own_words = ["--micro_batch", str(micro_batch), *common]
    programs = {"own": (sys.executable, "own_steps.py", ["--precision", options.precision, *own_words])}
    if options.precision == "bfloat16":
        programs["own_float32"] = (sys.executable, "own_steps.py", own_words)
    if not options.no_peer:
        peer_words = ["--precision", options.precision, *common, *["--compile"] * options.compile]
        programs["peer"] = (options.peer_python, "pytorch_peer.py", peer_words)
    limits = {"float32": sgemm_meter(), "bfloat16": bfloat16_meter()}
    rounds: dict[str, list[dict]] = {name: [] for name in programs}
    for number in range(options.rounds):
        for name, (python, program, words) in programs.items():
            rounds[name].append(run(python, program, shape, batch, steps, n_threads, *words))
            for meter in limits.values():
                meter.repeat()
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    flops = step_flops(shape, batch, shape.seq_len).total

    def figures(of_program: list[dict]) -> dict[str, float]:
        seconds = [value for one in of_program for value in one["seconds"]]
        median = statistics.median(seconds)
        return {
            "step_s": median, "tokens_per_s": batch * shape.seq_len / median, "gflop_per_s": flops / median / 1e9,
            "peak_gb": max(one["peak_bytes"] for one in of_program) / 1e9,
        }  # fmt: skip

    return {
        "processor": processor_name(), "shape": options.shape, "batch": batch, "micro_batch": micro_batch,
        "seq_len": shape.seq_len, "threads": n_threads, "rounds": options.rounds, "steps": steps,
        "level": rounds["own"][0]["level"], "precision": options.precision, "compiled": options.compile,
        "torch": "" if options.no_peer else rounds["peer"][0]["torch"],
        "limits": {name: meter.rate / 1e9 for name, meter in limits.items()},
        **{name: figures(of_program) for name, of_program in rounds.items()},
    }  # fmt: skip


def report(result: dict) -> str:
    """Return the table: programs, the share of the machine's limit, and the ratios to the first program."""
    limits, own = result["limits"], result["own"]
    lines = [
        f"{result['processor']}: kernels for {result['level']}; products {limits['float32']:.0f} GFLOP/s in float32, "
        f"{limits['bfloat16']:.0f} in bfloat16",
        f"{result['shape']}: B={result['batch']}, T={result['seq_len']}, {result['threads']} threads, "
        f"{result['rounds']} rounds of {result['steps']} steps",
    ]
    compiled = " compiled" * result["compiled"]
    names = {
        "own": (f"gpt-tui {result['precision']}", result["precision"]),
        "own_float32": ("gpt-tui float32", "float32"),
        "peer": (f"PyTorch {result['torch']}{compiled} {result['precision']}", result["precision"]),
    }
    for key, (name, precision) in names.items():
        if key in result:
            found = result[key]
            share = found["gflop_per_s"] / limits[precision]
            lines.append(
                f"{name:40} {found['tokens_per_s']:>9,.0f} tokens/s {found['step_s']:>8.3f} s per step "
                f"{share:>5.0%} of {precision:8} peak {found['peak_gb']:.2f} GB  "
                f"ratio {own['tokens_per_s'] / found['tokens_per_s']:.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
