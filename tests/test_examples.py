"""The scripts in `examples/` run, with tiny models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.training_samples import write_texts
from tests.program import ROOT

pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts and, in `model`, what `train_text.py` saved."""
    folder = tmp_path_factory.mktemp("examples")
    write_texts(folder)
    printed = run(folder, "train_text.py", "train.en", "--tiny", "--models-dir", "model", "--max-steps", "20")
    assert "step 20: train loss " in printed
    assert "max_steps at step 20, saved in model/ckpt_latest.safetensors" in printed
    return folder


def run(folder: Path, script: str, *arguments: str) -> str:
    """Run an example in a folder and return what it printed."""
    done = started(folder, script, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def started(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example in a folder to its end, whatever that is."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False
    )


def test_generating_prints_a_continuation_per_temperature(folder: Path) -> None:
    printed = run(folder, "generate_text.py", "model/ckpt_latest.safetensors", "She walked", "--max-tokens", "10")
    assert printed.count("She walked") == 3
    assert printed == run(
        folder, "generate_text.py", "model/ckpt_latest.safetensors", "She walked", "--max-tokens", "10"
    )


def test_comparing_prints_a_row_per_checkpoint(folder: Path) -> None:
    run(folder, "train_text.py", "train.en", "--tiny", "--models-dir", "other", "--max-steps", "2")
    names = ("model/ckpt_latest.safetensors", "other/ckpt_latest.safetensors")
    lines = run(folder, "compare_checkpoints.py", *names, "eval.en").splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["20", "2"]
    assert float(lines[1].split()[1]) < float(lines[2].split()[1])  # the longer training has the lower loss


def test_inspecting_prints_a_row_per_token(folder: Path) -> None:
    lines = run(folder, "inspect_tokens.py", "model/ckpt_latest.safetensors", "It was").splitlines()
    assert "".join(line.split()[1] for line in lines[1:]).replace("␣", " ") == "It was"
    assert all(0 < float(line.split()[2]) < 1 for line in lines[1:])


def test_looking_inside_prints_layers_heads_and_tokens(folder: Path) -> None:
    printed = run(folder, "look_inside.py", "model/ckpt_latest.safetensors", "It was")
    layers, heads, tokens = printed.split("\n\n")
    assert [line.split()[0] for line in layers.splitlines()[1:]] == [
        "embedding", "h.0.resid_mid", "h.0.out", "h.1.resid_mid", "h.1.out",
    ]  # fmt: skip
    assert len(heads.splitlines()) == 5
    changes = [float(line.split()[-1]) for line in heads.splitlines()[1:]]
    assert changes == sorted(changes, reverse=True)
    assert "".join(line.split()[0] for line in tokens.splitlines()[1:]).replace("␣", " ") == "<bos>It was"


@pytest.mark.parametrize("script", ["inspect_tokens.py", "look_inside.py"])
def test_an_empty_text_is_refused_in_one_line(folder: Path, script: str) -> None:
    done = started(folder, script, "model/ckpt_latest.safetensors", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"{script}: error: text: got '', expected a longer text")
    assert "Traceback" not in done.stderr


def test_own_parts_are_trained_with(folder: Path) -> None:
    printed = run(folder, "custom_parts.py", "train.en", "--tiny", "--models-dir", "bytes", "--max-steps", "5")
    tokens = int(printed.split()[0].replace(",", ""))
    assert b'\\"optimizer\\":\\"sgd\\"' in (folder / "bytes" / "ckpt_latest.safetensors").read_bytes()
    assert 5 * 16 * 60 < tokens <= 5 * 16 * 64  # 5 steps of 16 windows of at most 64 tokens
    sentences = (folder / "eval.en").read_text().split(". ") + (folder / "train.en").read_text().split(". ")
    words = " ".join(printed.splitlines()[1].split()[:2])
    assert any(words in sentence for sentence in sentences), "the sample continues words of the text"


def test_every_example_is_listed_and_tested() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tested = Path(__file__).read_text(encoding="utf-8")
    assert scripts
    assert all(f"`{name}`" in listed and f'"{name}"' in tested for name in scripts)
