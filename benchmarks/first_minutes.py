"""First minutes of training: bits per byte of held-out text, and a few generated lines.

    python benchmarks/first_minutes.py [--preset nano] [--minutes 1 3] [--threads N]
    python benchmarks/first_minutes.py --budget [--preset NAME] [--minutes 1 3 30] [--threads N]

Trains on the text that ships with the project, in a temporary folder. Without `--budget` one run of a preset is scored
after each of the times. The time includes evaluations and saves of the run; the evaluations that this script requests
are extra. With `--budget` each time is the budget of a run of its own, whose model and schedule follow from it, as with
`gpt-tui --minutes N`; its score is that of the complete eval text at the deadline.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import msgspec

from gpt_core.bench.budget_rule import budget_request
from gpt_core.bench.hardware import processor_name
from gpt_core.config.resolve import read_overrides
from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.kernels import available_cores, compute_threads
from gpt_core.training.events import EvalCompleted, FullEvalCompleted, RunFinished, StepCompleted
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_core.training.trainer import Trainer

PROMPTS = ("It was", "She ", '"My dear')


def main() -> None:
    """Train for the requested minutes and print a line per time, and samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", action="store_true", help="train a run of its own for each of the times")
    parser.add_argument("--preset", help="default: nano; with --budget, the model that follows from the time")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    print(f"{processor_name()}: {compute_threads(options.threads)} threads on {available_cores()} cores", flush=True)
    if options.budget:
        for minutes in options.minutes:
            train_for_budget(minutes, options.preset, options.threads)
    else:
        train_and_score(sorted(options.minutes), options.preset or "nano", options.threads)


def train_for_budget(minutes: float, preset: str | None, threads: int) -> None:
    """Train one run with a time budget, and print its model, its score at the deadline and samples."""
    with tempfile.TemporaryDirectory() as folder:
        values = {"minutes": minutes, "threads": threads, "models_dir": str(Path(folder, "models"))}
        trainer = open_run(budget_request(read_overrides(preset, options=values)))
        print(f"\n{trainer.run.model_reason}", flush=True)
        score: EvalCompleted | FullEvalCompleted | None = None
        last: StepCompleted | None = None
        for event in trainer.events():
            if isinstance(event, EvalCompleted | FullEvalCompleted):
                score = event
            elif isinstance(event, StepCompleted):
                last = event
            elif isinstance(event, RunFinished) and score is not None and last is not None:
                print(
                    f"{minutes:g} min: {score.bits_per_byte:.3f} bits per byte, accuracy {score.accuracy:.3f}, step "
                    f"{event.step:,}, {last.tokens / last.elapsed_s:,.0f} tokens/s, {event.reason} "
                    f"after {last.elapsed_s:.1f} s", flush=True,
                )  # fmt: skip
        print_samples(trainer)


def train_and_score(waiting: list[float], preset: str, threads: int) -> None:
    """Train one run of a preset, and print a line per time, and samples."""
    settings = read_overrides(preset=preset, options={"threads": threads}).apply_to().settings
    with tempfile.TemporaryDirectory() as folder:
        settings = msgspec.structs.replace(settings, models_dir=str(Path(folder, "models")))
        trainer = open_run(RunRequest(settings, preset))
        asked: tuple[int, float] | None = None  # step and minutes
        for event in trainer.events():
            if isinstance(event, StepCompleted) and asked is None and event.elapsed_s >= 60 * waiting[0]:
                trainer.requests.evaluate()
                asked = (event.step, waiting.pop(0))
                speed = event.tokens_per_s
            elif isinstance(event, EvalCompleted) and asked is not None and event.step == asked[0]:
                print(
                    f"{asked[1]:g} min: {event.bits_per_byte:.3f} bits per byte, accuracy {event.accuracy:.3f}, "
                    f"step {event.step:,}, {speed:,.0f} tokens/s", flush=True,
                )  # fmt: skip
                asked = None
                if not waiting:
                    trainer.requests.stop()
        print_samples(trainer)


def print_samples(trainer: Trainer) -> None:
    """Print a continuation of each prompt."""
    sampling = Sampling.from_settings(trainer.settings)
    for seed, prompt in enumerate(PROMPTS):
        generator = Generator(trainer.parameters, trainer.tokenizer, seed=seed)
        print(f"\n{prompt}{''.join(generator.generate(prompt, sampling))}")


if __name__ == "__main__":
    main()
