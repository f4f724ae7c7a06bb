"""Speed and memory of choosing a vocabulary and encoding a text, on one thread.

    python benchmarks/tokenizer.py [--megabytes 100] [--vocab 16384] [--json]

The text repeats the paragraphs of the shipped one in different orders, with one word in twenty replaced, so that it has
more n-grams than mere repetition. Rates are per second of processor time, the elapsed time on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from gpt_core.bench.hardware import peak_memory
from gpt_core.text.corpus import find_training_text
from gpt_core.text.source import text_source
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens

REPLACED = 0.05  # fraction of the words


def write_text(path: Path, size: int) -> None:
    """Return a text of about `size` bytes, the same on each call."""
    chance = random.Random(0)
    paragraphs = find_training_text().read_bytes().split(b"\n\n")
    words = sorted({word for paragraph in paragraphs for word in paragraph.split()})
    written = 0
    with open(path, "wb") as file:
        while written < size:
            chance.shuffle(paragraphs)
            for paragraph in paragraphs:
                mixed = [chance.choice(words) if chance.random() < REPLACED else word for word in paragraph.split(b" ")]
                written += file.write(b" ".join(mixed) + b"\n\n")
                if written >= size:
                    break


def measured(path: Path, vocab_size: int) -> dict[str, float]:
    """Return the figures of one text."""
    began, started = peak_memory() or 0, time.process_time()
    tokenizer = load_or_train_tokenizer(text_source(path), vocab_size, cache_dir=path.parent)
    trained_s, trained_peak = time.process_time() - started, peak_memory() or 0
    started = time.process_time()
    tokens = load_tokens(text_source(path), tokenizer, "paragraph", cache_dir=path.parent)
    cached_s, cached_peak = time.process_time() - started, peak_memory() or 0
    text = path.read_bytes()
    started = time.process_time()
    tokenizer.encode(text)
    encoded_s = time.process_time() - started
    return {
        "train_s": trained_s,
        "train_extra_mb": (trained_peak - began) / 1e6,
        "cache_s": cached_s,
        "cache_extra_mb": (cached_peak - began) / 1e6,
        "encode_mb_per_s": len(text) / 1e6 / encoded_s,
        "bytes_per_token": len(text) / len(tokens),
    }


def main() -> None:
    """Measure and print lines, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpt-tui-tokenizer-") as folder:
        path = Path(folder, "text.en")
        print(f"writing {options.megabytes} MB of text", file=sys.stderr)
        write_text(path, options.megabytes * 1_000_000)
        figures = measured(path, options.vocab)
    if options.json:
        print(json.dumps({"megabytes": options.megabytes, "vocab": options.vocab, **figures}))
        return
    print("choosing {:,} pieces: {train_s:.1f} s, {train_extra_mb:.0f} MB more memory".format(options.vocab, **figures))
    print("reading, encoding and caching the text: {cache_s:.1f} s, {cache_extra_mb:.0f} MB".format(**figures))
    print("encoding alone: {encode_mb_per_s:.0f} MB/s, {bytes_per_token:.2f} bytes per token".format(**figures))


if __name__ == "__main__":
    main()
