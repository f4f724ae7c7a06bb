"""Fuzzing of the readers of untrusted files: no input crashes or hangs them, or is wrongly accepted.

Guided by coverage where atheris is installed (`fuzz/run.py`). The unguided mutations need no atheris, so that they also
run under the sanitizers and with bounds checks.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.program import ROOT, environment
from tests.reliability.counts import count
from tests.reliability.fuzz.mutation import mutated_json
from tests.reliability.fuzz.readers import READERS

pytestmark = pytest.mark.slow

FULL = 10_000_000
AT_ONCE = 2_000_000  # inputs per process
Record = Callable[[str, object], None]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return the input with one value of its JSON, or a few bytes, changed."""
    if draw.random() < 0.5 and (changed := mutated_json(data, draw)) is not None:
        return changed
    changed_bytes = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(changed_bytes) + 1)
        kind = draw.random()
        if kind < 0.4 and at < len(changed_bytes):
            changed_bytes[at] = draw.choice((0, 0x20, 0x30, 0x7F, 0xFF, draw.randrange(256)))
        elif kind < 0.6:
            changed_bytes[at:at] = draw.randbytes(draw.choice((1, 2, 8)))
        elif kind < 0.8:
            del changed_bytes[at : at + draw.choice((1, 2, 16, 1000))]
        else:
            end = at + draw.randrange(1, 64)
            changed_bytes[at:at] = changed_bytes[at:end]
    return bytes(changed_bytes)


@pytest.mark.essential
@pytest.mark.parametrize("name", READERS)
def test_no_mutation_of_a_valid_file_crashes_a_reader(name: str, record_property: Record) -> None:
    tries = count(300, 20_000)
    record_property("count", f"{tries:,} each")
    reader, draw = READERS[name], random.Random(name)
    seeds = list(reader.seeds())
    for seed in seeds:
        reader.read(seed)
    for _ in range(tries):
        data = draw.choice(seeds)
        for _ in range(draw.choice((1, 1, 2, 4))):
            data = mutated(data, draw)
        reader.read(data)


def fuzz(name: str, record_property: Record) -> None:
    """Try the requested number of inputs in successive processes, each starting from the corpus of the last one."""
    if not importlib.util.find_spec("atheris"):
        pytest.skip("atheris is not installed")
    inputs = count(2_000, FULL)
    tried = 0
    corpus = os.environ.get("GPT_TUI_CORPUS", "")
    while tried < inputs:
        command = [
            sys.executable,
            "-m",
            "tests.reliability.fuzz.run",
            name,
            "--inputs",
            str(min(AT_ONCE, inputs - tried)),
        ]
        if corpus:
            command += ["--corpus", os.path.join(corpus, name)]
        run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, errors="replace",
                             check=False)  # fmt: skip
        assert run.returncode == 0, run.stderr[-4000:]
        tried += int(re.findall(r"^Done (\d+) runs", run.stderr, re.MULTILINE)[-1])
    record_property("count", f"{tried:,} inputs")


def test_fuzzing_the_checkpoint_reader_finds_no_crash_and_no_hang(record_property: Record) -> None:
    fuzz("checkpoint", record_property)


def test_fuzzing_the_tokenizer_reader_finds_no_crash_and_no_hang(record_property: Record) -> None:
    fuzz("tokenizer", record_property)


def test_fuzzing_the_config_reader_finds_no_crash_and_no_hang(record_property: Record) -> None:
    fuzz("config", record_property)


def test_fuzzing_the_corpus_reader_finds_no_crash_and_no_hang(record_property: Record) -> None:
    fuzz("corpus", record_property)


def test_fuzzing_the_reader_of_text_files_finds_no_crash_and_no_hang(record_property: Record) -> None:
    fuzz("text-files", record_property)


def test_fuzzing_the_token_cache_reader_finds_no_crash_and_no_hang(record_property: Record) -> None:
    fuzz("token-cache", record_property)


def test_fuzzing_the_log_reader_finds_no_crash_and_no_hang(record_property: Record) -> None:
    fuzz("metrics", record_property)


def test_fuzzing_the_reader_of_hugging_face_folders_finds_no_crash_and_no_hang(record_property: Record) -> None:
    fuzz("huggingface", record_property)


def test_fuzzing_the_reader_of_gguf_files_finds_no_crash_and_no_hang(record_property: Record) -> None:
    fuzz("gguf", record_property)


def test_fuzzing_finds_an_input_that_a_reader_mishandles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "metrics", READERS["metrics"]._replace(read=lambda data: data.decode()))
    with pytest.raises(UnicodeDecodeError):
        test_no_mutation_of_a_valid_file_crashes_a_reader("metrics", lambda *_: None)
