"""Learning in float32 and in bfloat16, from one seed, and evaluation with stored weights.

    python benchmarks/precisions.py [--preset nano] [--steps 2000] [--seed 1] [--threads N]

Trains twice on the text that ships with the project, in a temporary folder, and prints bits per byte of the eval text:
those of the two runs, and of the float32 model evaluated with its weights in bfloat16 and in int8. The figures do not
depend on the load of the machine.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import gpt_core
from gpt_core.bench.hardware import processor_name
from gpt_core.kernels import LEVEL
from gpt_core.model.stored_weights import WEIGHT_FORMATS
from gpt_core.training.events import EvalCompleted

EVAL_FILE = Path(__file__).parents[1] / "data" / "test" / "eval.en"


def learned(preset: str, precision: str, steps: int, seed: int, threads: int, folder: Path) -> Path:
    """Train in one precision, print each evaluation, and return the checkpoint of the last step."""
    run = gpt_core.train(
        preset=preset, precision=precision, max_steps=steps, seed=seed, threads=threads, models_dir=folder,
        eval_every_steps=max(1, steps // 4),
    )  # fmt: skip
    for event in run:
        if isinstance(event, EvalCompleted):
            print(f"{precision:8} step {event.step:>6,}: {event.bits_per_byte:.4f} bits per byte", flush=True)
    return folder / "ckpt_latest.safetensors"


def main() -> None:
    """Train in both precisions and evaluate with each format of the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    print(f"{processor_name()}, kernels for {LEVEL}; {options.preset}, {options.steps:,} steps, seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = {
            precision: learned(
                options.preset, precision, options.steps, options.seed, options.threads, Path(folder, precision)
            )
            for precision in ("float32", "bfloat16")
        }
        scores = {}
        for precision, path in checkpoints.items():
            for weights in WEIGHT_FORMATS if precision == "float32" else WEIGHT_FORMATS[:1]:
                model = gpt_core.load(path, threads=options.threads, weights=weights)
                scores[precision, weights] = model.evaluate(EVAL_FILE)
    reference = scores["float32", "float32"].bits_per_byte
    for (precision, weights), score in scores.items():
        difference = score.bits_per_byte - reference
        print(
            f"trained in {precision:8} weights in {weights:8}: "
            f"{score.bits_per_byte:.4f} bits per byte ({difference:+.4f})"
        )


if __name__ == "__main__":
    main()
