"""The command that `export gguf` prints, run with llama.cpp's `llama-completion`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import msgspec
import pytest

from gpt_core.bridges.export import export_model
from gpt_core.config.settings import QWEN3
from gpt_core.generation.generator import Generator, with_bos
from gpt_tui.cli.export import result_lines
from tests.bridges.samples import GREEDY, model, needs_tokenizers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(which("llama-completion") is None, reason="llama-completion is not installed"),
]
OPTIONS = "--temp 0 --no-display-prompt --threads 1"


@pytest.mark.parametrize("prompt", ["It was the", "Ich weiß nicht,", r"a\new 'it'", ""])
@pytest.mark.parametrize(
    ("tokenizer", "layers"),
    [("pieces", {}), ("pieces", QWEN3), pytest.param("bpe", {}, marks=needs_tokenizers)],
)  # fmt: skip
def test_the_printed_command_gives_the_greedy_text(
    tokenizer: str, layers: dict[str, Any], prompt: str, tmp_path: Path
) -> None:
    own = model(tokenizer, sample_prompt=prompt, **layers)
    command = result_lines(own, "gguf", export_model(own, "gguf", tmp_path / "a.gguf"))[-1].removeprefix("llama.cpp: ")
    ids = with_bos(own.tokenizer, own.tokenizer.encode((prompt or "PROMPT").encode()).tolist())
    assert f" -n {64 - len(ids)} " in command
    sampling = msgspec.structs.replace(GREEDY, max_tokens=64 - len(ids))
    reply = own.tokenizer.decode(Generator(own.parameters, own.tokenizer).tokens(ids, sampling))
    expected = reply.decode("utf-8", "ignore")
    for _ in range(5):  # the program may end before all of its output is written
        run = subprocess.run(f"{command} {OPTIONS}", shell=True, capture_output=True, stdin=subprocess.DEVNULL)
        assert run.returncode == 0
        found = run.stdout.decode("utf-8", "ignore").removesuffix("\n\n").removesuffix(" [end of text]")
        if found == expected:
            break
    assert found == expected
