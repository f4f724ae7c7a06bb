"""Fuzz one reader, guided by coverage: `python -m tests.reliability.fuzz.run checkpoint --inputs 1000000`.

Needs atheris (`pip install atheris`): libFuzzer, with the branches of `gpt_core` and of `tomllib` counted as they are
imported. An input that crashes, hangs for ten seconds, takes 2 GB, or is neither accepted nor refused as documented
is saved and ends the run with a nonzero exit code. Inputs that reach new branches are saved in `--corpus`, where a
later run starts.
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

TIMEOUT_S = 10
MAX_MB = 2048


def main() -> None:
    """Fuzz until all inputs are tried or a finding ends the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "reader", help="checkpoint, tokenizer, config, corpus, text-files, token-cache, metrics, huggingface or gguf"
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="number of inputs to try")
    parser.add_argument("--seconds", type=int, default=0, help="stop after this many seconds (default: no limit)")
    parser.add_argument("--corpus", type=Path, help="folder of inputs to start from, where new ones are saved")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpt-tui-corpus-") as folder:
        fuzz(options.reader, options.inputs, options.seconds, options.corpus or Path(folder))


def fuzz(name: str, inputs: int, seconds: int, corpus: Path) -> None:
    """Fuzz the reader; never returns, because libFuzzer ends the process."""
    import atheris
    import numpy  # noqa: F401, imported first so that it is not instrumented

    logging.disable(logging.WARNING)
    with atheris.instrument_imports(include=["gpt_core", "tomllib"]):
        from tests.reliability.fuzz.readers import READERS

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        draw = random.Random(seed)
        changed = mutated_json(data, draw) if draw.random() < 0.5 else None
        if changed is None or len(changed) > max_size:
            return bytes(atheris.Mutate(data, max_size))
        return changed

    reader = READERS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(reader.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0], str(corpus), f"-runs={inputs}", f"-max_total_time={seconds}", f"-max_len={reader.max_bytes}",
            f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MAX_MB}", f"-artifact_prefix={corpus}{os.sep}finding-",
            "-len_control=0", "-print_final_stats=1", "-verbosity=1",
        ],
        reader.read,
        custom_mutator=mutate,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    main()
