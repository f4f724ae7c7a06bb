"""`gpt-tui verify`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Result


def test_verify_reports_valid_and_damaged_files(program: Callable[..., Result], trained: Path, tmp_path: Path) -> None:
    valid = trained / "models" / "ckpt_latest.safetensors"
    damaged = tmp_path / "damaged.safetensors"
    data = bytearray(valid.read_bytes())
    data[-1000] ^= 1
    damaged.write_bytes(data)
    good = program("verify", str(valid), cwd=tmp_path)
    assert (good.returncode, good.stdout.count("\n"), good.stderr) == (0, 1, "")
    assert "OK, latest, step 6" in good.stdout
    best = program("verify", str(valid.with_name("best_model.safetensors")), cwd=tmp_path).stdout
    assert re.search(r"OK, best, step \d+, eval loss \d\.\d{3}, accuracy \d+\.\d%, \d\.\d{3} bits per byte, ", best)
    bad = program("verify", str(valid), str(damaged), "nowhere", str(tmp_path), cwd=tmp_path)
    assert (bad.returncode, bad.stderr) == (1, "")
    lines = bad.stdout.splitlines()
    assert len(lines) == 4
    assert "OK, latest, step 6" in lines[0]
    assert "damaged.safetensors is damaged" in lines[1]
    assert "nowhere: No such file" in lines[2]
    assert program("verify", str(valid), str(damaged), cwd=tmp_path).returncode == 1
    missing = program("verify", "nowhere", str(valid), str(tmp_path), cwd=tmp_path)
    assert (missing.returncode, missing.stdout.count("\n")) == (2, 3)
    (tmp_path / "notes.txt").write_text("no checkpoint")
    other = program("verify", "notes.txt", cwd=tmp_path)
    assert (other.returncode, other.stdout) == (
        2,
        "notes.txt is not a gpt-tui checkpoint; name a .safetensors file that gpt-tui has saved\n",
    )
