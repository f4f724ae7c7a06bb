"""Fuzzes one reader, guided by coverage: `python -m tests.reliability.fuzz.run checkpoint --inputs 1000000`.

Needs atheris (`pip install atheris`): libFuzzer, with the branches of `gpt_core` and of `tomllib` counted as they are
imported. An input that crashes, hangs for ten seconds, takes 2 GB or is neither taken nor refused as documented ends
the run with an exit code that is not 0, and is kept. What was found to reach new branches is kept in `--corpus`, and a
later run goes on from there.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.reliability.fuzz.mutation import mutated_json

HANGS_AFTER_S = 10
MOST_MB = 2048


def main() -> None:
    """Fuzz until all inputs were tried, or one was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", help="checkpoint, tokenizer, config, corpus, token-cache or metrics")
    parser.add_argument("--inputs", type=int, default=100_000, help="how many to try")
    parser.add_argument("--seconds", type=int, default=0, help="stop after so many (default: never)")
    parser.add_argument("--corpus", type=Path, help="a folder to begin from and to keep what was found in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpt-tui-corpus-") as folder:
        fuzz(options.reader, options.inputs, options.seconds, options.corpus or Path(folder))


def fuzz(name: str, inputs: int, seconds: int, corpus: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris
    import numpy  # noqa: F401, before what is instrumented: it is not to be

    logging.disable(logging.WARNING)
    with atheris.instrument_imports(include=["gpt_core", "tomllib"]):
        from tests.reliability.fuzz.readers import READERS

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        changed = mutated_json(data, draw) if draw.random() < 0.5 else None
        if changed is None or len(changed) > most:
            return bytes(atheris.Mutate(data, most))
        return changed

    reader = READERS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(reader.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0], str(corpus), f"-runs={inputs}", f"-max_total_time={seconds}", f"-max_len={reader.most_bytes}",
            f"-timeout={HANGS_AFTER_S}", f"-rss_limit_mb={MOST_MB}", f"-artifact_prefix={corpus}{os.sep}finding-",
            "-len_control=0", "-print_final_stats=1", "-verbosity=1",
        ],
        reader.read,
        custom_mutator=mutate,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    main()
