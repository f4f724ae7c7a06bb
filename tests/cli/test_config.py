"""`gpt-tui config`."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from gpt_core.config.presets import preset
from gpt_core.config.resolve import read_overrides
from gpt_core.config.toml_file import PREFERENCES
from gpt_tui.cli import main as cli


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
    assert read_overrides(config_file=Path("run.toml"), foreign=PREFERENCES).apply_to().settings == expected
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
