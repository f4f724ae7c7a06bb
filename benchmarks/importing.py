"""Import of GPT-2 124M from a folder that transformers wrote, and the memory of training steps on it.

    python benchmarks/importing.py

The weights are random: what is measured does not depend on them. Needs the extra `bridges`. Each part runs in a process
of its own, whose peak memory is that of the part.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gpt_core
from gpt_core.tokenizers.byte_pairs import END_OF_TEXT, BytePairTokenizer
from gpt_core.training.events import StepCompleted

VOCAB_SIZE = 50_257
BATCH, TIME = 4, 512
TEXT = Path(__file__).resolve().parents[1] / "data" / "raw" / "train.en"


def main() -> None:
    """Measure all parts, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="measure this part alone (used internally)")
    parser.add_argument("--folder", help="where to write the model (default: a temporary folder)")
    parser.add_argument("--steps", type=int, default=3, help="training steps (default: 3)")
    options = parser.parse_args()
    if options.part:
        PARTS[options.part](Path(options.folder), options.steps)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for part in PARTS:
            arguments = ["--part", part, "--folder", folder, "--steps", str(options.steps)]
            subprocess.run([sys.executable, __file__, *arguments], check=True)


def write_folder(folder: Path, _steps: int) -> None:
    """Write GPT-2 124M with random weights and a tokenizer of its size."""
    import transformers

    config = transformers.GPT2Config()
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    tokenizer = full_tokenizer()
    vocabulary = {name: token for token, name in enumerate(tokenizer.tokens)}
    transformers.GPT2Tokenizer(vocabulary, list(tokenizer.merges)).save_pretrained(folder / "gpt2")
    size = sum(path.stat().st_size for path in (folder / "gpt2").iterdir())
    print(f"folder of GPT-2 124M: {size / 1e6:,.0f} MB")


def full_tokenizer() -> BytePairTokenizer:
    """Return a tokenizer of GPT-2's size: the merges of the shipped text, then merges of random pairs of its tokens."""
    trained = BytePairTokenizer.train([TEXT.read_bytes()], VOCAB_SIZE)
    names, merges = list(trained.tokens[:-1]), list(trained.merges)
    known, draw = set(names), np.random.default_rng(1)
    while len(names) < VOCAB_SIZE - 1:
        left, right = (names[at] for at in draw.integers(256, len(names), 2))
        if left + right not in known:
            merges.append((left, right))
            names.append(left + right)
            known.add(left + right)
    return BytePairTokenizer([*names, END_OF_TEXT], merges, [VOCAB_SIZE - 1], VOCAB_SIZE - 1)


def import_folder(folder: Path, _steps: int) -> None:
    """Import the folder."""
    before = peak_mb()
    started = time.perf_counter()
    path = gpt_core.import_model(folder / "gpt2", folder / "gpt2.safetensors")
    print(
        f"import: {time.perf_counter() - started:.1f} s, {path.stat().st_size / 1e6:,.0f} MB, peak memory "
        f"{peak_mb():,.0f} MB ({before:,.0f} MB before it)"
    )


def encode_text(folder: Path, _steps: int) -> None:
    """Encode the shipped text with the tokenizer of the checkpoint."""
    tokenizer = gpt_core.load(folder / "gpt2.safetensors").tokenizer
    text = TEXT.read_bytes()
    started = time.perf_counter()
    tokens = len(tokenizer.encode(text))
    took_s = time.perf_counter() - started
    print(f"encoding on one thread: {len(text) / took_s / 1e6:.1f} MB/s, {len(text) / tokens:.2f} bytes per token")


def train_steps(folder: Path, steps: int) -> None:
    """Take training steps on the shipped text, starting from the imported weights."""
    run = gpt_core.train(
        TEXT, init_from=folder / "gpt2.safetensors", models_dir=folder / "models", batch_size=BATCH,
        micro_batch_size=0, seq_len=TIME, max_steps=steps, eval_every_steps=1_000_000, eval_tokens=BATCH * TIME,
        sample_tokens=0, save_every_steps=0, save_every_minutes=0, save_epoch_number=0,
    )  # fmt: skip
    with run:
        for event in run:
            if isinstance(event, StepCompleted):
                print(f"step {event.step}: loss {event.loss:.3f}, {event.tokens_per_s:,.0f} tokens/s", flush=True)
            if isinstance(event, StepCompleted) and event.step == steps:
                print(f"training at B={BATCH}, T={TIME}: peak memory {peak_mb() / 1e3:.2f} GB")
                run.stop(save=False)


def peak_mb() -> float:
    """Return the peak memory of this process in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


PARTS = {"folder": write_folder, "import": import_folder, "encode": encode_text, "train": train_steps}

if __name__ == "__main__":
    main()
