"""`gpt-tui config`, `verify`, `gradcheck` and `tokenize`."""

from __future__ import annotations

import gzip
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gpt_core import gradcheck
from gpt_core.config.presets import preset
from gpt_core.config.resolve import resolve
from gpt_core.formats.bundle import load_bundle
from gpt_tui.cli import main as cli
from gpt_tui.cli.options import PREFERENCES
from tests.cli.conftest import Result
from tests.program import tiny


def test_the_output_of_config_is_a_config_file_with_the_same_settings(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", "--preset", "micro", "--set", "layers=3", "--seed", "5", "--models-dir", 'a "b"']) == 0
    printed = capsys.readouterr().out
    values = tomllib.loads(printed)
    assert values.pop("keys") == {}
    assert "# model: custom" in printed
    assert "preset" not in values  # the shape is not that of micro
    expected = msgspec.structs.replace(preset("micro"), layers=3, seed=5, models_dir=str(Path.cwd() / 'a "b"'))
    (empty_folder / "run.toml").write_text(printed)
    assert resolve(config_file=Path("run.toml"), foreign=PREFERENCES).settings == expected
    assert "layers = 3" in printed
    assert "[--set]" in next(line for line in printed.splitlines() if line.startswith("layers ="))
    assert "[--seed]" in next(line for line in printed.splitlines() if line.startswith("seed ="))
    assert "[preset micro]" in next(line for line in printed.splitlines() if line.startswith("d_model ="))
    assert cli.main(["config", "--config", "run.toml"]) == 0
    again = tomllib.loads(capsys.readouterr().out)
    assert again == values | {"keys": {}}
    assert cli.main(["config", "--preset", "micro"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["preset"] == "micro"


def test_options_override_the_config_file_and_the_environment_is_read(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / "run.toml").write_text("seed = 1\nlayers = 2\n")
    monkeypatch.setenv("OVERFIT_TINY", "1")
    assert cli.main(["config", "--config", "run.toml", "--seed", "9"]) == 0
    values = tomllib.loads(capsys.readouterr().out)
    assert (values["seed"], values["layers"], values["overfit_tiny"]) == (9, 2, True)


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
    (tmp_path / "notes.txt").write_text("no checkpoint")
    other = program("verify", "notes.txt", cwd=tmp_path)
    assert (other.returncode, other.stdout) == (
        1,
        "notes.txt: is not a checkpoint; name files that end in .safetensors\n",
    )


@pytest.mark.slow
def test_gradcheck_checks_every_gradient_and_reports_the_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gradcheck", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [row["tensor"] for row in found["tensors"]]
    assert found["passed"]
    assert {"wte.weight", "wpe.weight", "h.0.attn.c_attn.bias", "ln_f.weight"} <= set(names)
    assert all(row["reference_error"] < 1e-6 and row["kernel_error"] < 1e-4 for row in found["tensors"])


def test_gradcheck_fails_on_one_wrong_gradient(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gradcheck.GradcheckRow("wpe.weight", (9, 6), 54, 1e-9, 1e-6, True)
    wrong = gradcheck.GradcheckRow("wte.weight", (13, 6), 78, 1e-9, float("nan"), False)
    monkeypatch.setattr(gradcheck, "run_gradcheck", lambda: [right, wrong])
    assert cli.main(["gradcheck"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line.endswith("WRONG")] == ["wte.weight", "1"]


def test_tokenize_reports_counts_and_an_exact_round_trip(program: Callable[..., Result], trained: Path) -> None:
    (trained / "odd.bin").write_bytes(bytes(range(256)) * 3 + b"the cat" * 50)
    run = program("tokenize", "odd.bin", "--json", *tiny("allow_binary=true"))
    found = json.loads(run.stdout)
    assert run.returncode == 0
    assert (found["bytes"], found["round_trip"], found["vocab_size"]) == (256 * 3 + 350, True, 300)
    assert found["bytes_per_token"] == pytest.approx(found["bytes"] / found["tokens"])
    assert 256 * 3 < found["tokens"] < found["bytes"]
    assert found["tokenizer_from"] == "data/raw/train.en"
    plain = program("tokenize", "odd.bin", *tiny("allow_binary=true")).stdout
    assert plain.startswith("odd.bin, with the tokenizer trained on data/raw/train.en\n")
    model = ("--model", "models/ckpt_latest.safetensors")
    by_model = program("tokenize", "odd.bin", "--json", *model, "--set", "allow_binary=true")
    assert json.loads(by_model.stdout)["tokens"] == found["tokens"]
    assert json.loads(by_model.stdout)["tokenizer_from"] == "models/ckpt_latest.safetensors"


def test_tokenize_shows_the_text_cut_into_tokens(program: Callable[..., Result], tmp_path: Path, trained: Path) -> None:
    text = "The cat sat on the mat.\n\nThe bat\x1b sat "
    (tmp_path / "my.txt").write_text(text)
    model = str(trained / "models" / "ckpt_latest.safetensors")
    tokenizer = load_bundle(Path(model)).tokenizer
    tokens = [tokenizer.describe(token) for token in tokenizer.encode(text.encode()).tolist()]
    assert len(tokens) > 5
    command = ("tokenize", "my.txt", "--model", model, "--set", "allow_binary=true")
    plain = program(*command, "--show-tokens", cwd=tmp_path)
    summary, _, shown = plain.stdout.partition("round trip: identical\n\n")
    assert "tokens, vocabulary 300" in summary
    lines = shown.splitlines()
    assert [token for line in lines for token in line.split("|")] == tokens
    assert [line.endswith("\\n") for line in lines] == [True] * (len(lines) - 1) + [False]
    assert all(line.isprintable() for line in lines)
    assert json.loads(program(*command, "--show-tokens", "--json", cwd=tmp_path).stdout)["texts"] == tokens
    assert "texts" not in json.loads(program(*command, "--json", cwd=tmp_path).stdout)


def test_tokenize_refuses_a_file_that_is_not_text_in_one_line(program: Callable[..., Result], trained: Path) -> None:
    (trained / "wide.txt").write_bytes("It was\n".encode("utf-16-le") * 50)
    for model in ((), ("--model", "models/ckpt_latest.safetensors")):
        run = program("tokenize", "wide.txt", *tiny(), *model)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith(
            "gpt-tui: wide.txt is not plain text: got UTF-16 text, expected UTF-8; read it with"
        )
        assert run.stderr.count("\n") == 1


def test_tokenize_reads_several_texts_of_several_kinds(program: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Über".encode("latin-1"))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("Brücke".encode()))
    (tmp_path / "c.jsonl").write_text('{"body": "läuft"}')
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt.gz", "c.jsonl")]
    reading = ("--encoding", "latin-1", "--text-field", "body")
    for given in (files, [str(tmp_path)], [f"{tmp_path}/*"]):
        run = program("tokenize", "--json", *tiny(), *reading, *given)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["bytes"] == len("ÜberBrückeläuft".encode())
    run = program("tokenize", *tiny(), *files)
    assert (run.returncode, run.stdout) == (2, "")
    assert "a.txt is not UTF-8: got 0xdc at byte 0 (line 1); it looks like cp1252 ('Über')" in run.stderr


def test_tokenize_fails_if_the_round_trip_changes_bytes(program: Callable[..., Result], trained: Path) -> None:
    (trained / "upper.txt").write_text("The Cat")
    run = program("tokenize", "upper.txt", *tiny("tokenizer=ascii"))
    assert run.returncode == 1
    assert "DIFFERENT bytes" in run.stdout
