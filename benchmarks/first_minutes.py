"""First minutes of training: bits per byte of held-out text, and a few generated lines.

    python benchmarks/first_minutes.py [--preset nano] [--minutes 1 3] [--threads N]

Trains on the text that ships with the project, in a temporary folder. The time includes evaluations and saves of the
run; the evaluations that this script requests are extra.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import msgspec

from gpt_core.config.resolve import resolve
from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.training.events import EvalCompleted, StepCompleted
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run

PROMPTS = ("It was", "She ", '"My dear')


def main() -> None:
    """Train for the requested minutes and print a line per evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    waiting = sorted(options.minutes)
    settings = resolve(preset=options.preset, options={"threads": options.threads}).settings
    with tempfile.TemporaryDirectory() as folder:
        settings = msgspec.structs.replace(settings, models_dir=str(Path(folder, "models")))
        trainer = open_run(RunRequest(settings, options.preset))
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
        sampling = Sampling.from_settings(settings)
        for seed, prompt in enumerate(PROMPTS):
            generator = Generator(trainer.parameters, trainer.tokenizer, seed=seed)
            print(f"\n{prompt}{''.join(generator.generate(prompt, sampling))}")


if __name__ == "__main__":
    main()
