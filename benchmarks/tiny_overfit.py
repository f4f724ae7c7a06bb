"""Tiny overfit from the command line: its final loss, and how many of its lines the model reproduces.

    python benchmarks/tiny_overfit.py [--preset nano]

The prompt is the start of a line (20 characters, or 8 of a short line); generation is greedy. A line counts if it is
reproduced exactly, with nothing after it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import msgspec

from gpt_core.config.resolve import read_overrides
from gpt_core.generation.generator import Generator
from gpt_core.generation.sampler import Sampling
from gpt_core.text.reader import first_lines
from gpt_core.training.events import StepCompleted
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run, text_sources

GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=100)
LAST_STEPS = 50  # the final loss is the mean over these


def main() -> None:
    """Train, generate each line and print two figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    options = parser.parse_args()
    settings = read_overrides(preset=options.preset, assignments=["overfit_tiny=true"]).apply_to().settings
    with tempfile.TemporaryDirectory() as folder:
        settings = msgspec.structs.replace(settings, models_dir=str(Path(folder, "models")))
        trainer = open_run(RunRequest(settings, options.preset))
        losses = [event.loss for event in trainer.events() if isinstance(event, StepCompleted)]
    generator = Generator(trainer.parameters, trainer.tokenizer)
    lines = [line.decode() for line in first_lines(text_sources(settings)[0], settings.overfit_lines)]
    reproduced = 0
    for line in lines:
        beginning = line[: 20 if len(line) > 25 else 8]
        reproduced += beginning + "".join(generator.generate(beginning, GREEDY)) == line
    print(f"loss {statistics.mean(losses[-LAST_STEPS:]):.4f} after {len(losses):,} steps")
    print(f"{reproduced} of {len(lines)} lines reproduced")


if __name__ == "__main__":
    main()
