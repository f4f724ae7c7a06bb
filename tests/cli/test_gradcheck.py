"""`gpt-tui gradcheck`, and Ctrl+C while a command imports what it needs."""

from __future__ import annotations

import builtins
import json
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt_core import gradcheck
from gpt_tui.cli import main as cli
from gpt_tui.cli import watch
from tests.program import environment


def test_ctrl_c_ends_the_program_while_what_gradcheck_needs_is_imported() -> None:
    script = "import sys, gpt_tui.cli.gradcheck; sys.exit('gpt_core.gradcheck' not in sys.modules)"
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True)


def test_ctrl_c_ends_the_program_while_the_app_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers, imported = [], builtins.__import__

    def recorded(name: str, *others: object) -> object:
        if name != "gpt_tui.app.launch":
            return imported(name, *others)  # type: ignore[arg-type]
        handlers.append(signal.getsignal(signal.SIGINT))
        return SimpleNamespace(run_app=lambda *_, **__: 0)

    monkeypatch.setattr(watch, "require_terminal", lambda _: None)
    monkeypatch.setattr(builtins, "__import__", recorded)
    assert watch.watch(Namespace(folder=str(tmp_path))) == 0
    assert handlers == [signal.SIG_DFL]


@pytest.mark.slow
def test_gradcheck_checks_every_gradient_and_reports_the_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gradcheck", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [row["tensor"] for row in found["tensors"]]
    assert found["passed"]
    assert {"wte.weight", "wpe.weight", "h.0.attn.c_attn.bias", "ln_f.weight"} <= set(names)
    assert {"h.0.attn.q_norm.weight", "lm_head.weight", "h.1.x0_scale"} <= set(names)
    assert len({row["architecture"] for row in found["tensors"]}) == 4
    assert all(row["reference_error"] < 1e-6 and row["kernel_error"] < 1e-4 for row in found["tensors"])


def test_gradcheck_fails_on_one_wrong_gradient(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gradcheck.GradcheckRow("wpe.weight", (9, 6), 54, 1e-9, 1e-6, True)
    wrong = gradcheck.GradcheckRow("wte.weight", (13, 6), 78, 1e-9, float("nan"), False)
    monkeypatch.setattr(gradcheck, "run_gradcheck", lambda: [right, wrong])
    assert cli.main(["gradcheck"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed if line.endswith("WRONG")] == [["gpt2", "wte.weight"], ["1", "of"]]
    assert cli.main(["gradcheck", "--json"]) == 1
    printed_json = capsys.readouterr().out
    assert "NaN" not in printed_json  # which is no JSON
    assert json.loads(printed_json)["tensors"][1]["kernel_error"] is None
