"""`gpt-tui gradcheck`."""

from __future__ import annotations

import json

import pytest

from gpt_core import gradcheck
from gpt_tui.cli import main as cli


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
