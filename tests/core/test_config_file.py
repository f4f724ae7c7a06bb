"""Settings in TOML: reading and writing config files."""

import os
import random
import tomllib
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import GROUP_RATES, Settings
from gpt_core.config.toml_file import as_toml, changes_as_toml, read_config
from gpt_core.config.validation import PATHS, fields
from tests.core.config_samples import config, refusal


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = 1\nlayers = \n", "line 2"),
        ("seed = 1\nseed = 2\n", "line 2"),
        (b"seed = 1\n\n# \xff\n", "line 3"),
        ("seed = " + "9" * 5000, "not TOML"),
        ("seed = 0x" + "f" * 20_000, "too long to show"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("# " + "x" * (1 << 20), "more than"),
        ("[model]\nlayers = 1", "unknown setting 'model'"),
    ],
)
def test_a_damaged_config_file_is_reported_in_one_line_with_its_position(tmp_path, text, said):
    path = config(tmp_path, text)
    message = refusal(config_file=path)
    assert said in message
    assert str(path) in message


def test_files_that_are_not_config_files_are_rejected_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, said in (("missing.toml", "No such file"), ("fifo", "a FIFO"), (".", "a folder"), ("a\0b", "null")):
        assert said in refusal(config_file=tmp_path / name)
    assert "a device" in refusal(config_file="/dev/zero")


def test_control_characters_in_names_cannot_reach_the_terminal(tmp_path):
    path = config(tmp_path, "layers = 0", "\x1b[31m\n.toml")
    assert "\\x1b[31m\\n.toml" in refusal(config_file=path)
    assert "\x1b" not in as_toml(*read_overrides(config_file=config(tmp_path, "seed = 1", "\x1b[31m.toml")).apply_to())


def random_settings(seed):
    """Return settings with every value drawn at random from its valid ones."""
    draw = random.Random(seed)
    values = {}
    for key, field in fields().items():
        kind = field.kind
        if isinstance(kind, inspect.BoolType):
            values[key] = draw.random() < 0.5
        elif choices := field.choices():
            values[key] = draw.choice(choices)
        elif isinstance(kind, inspect.StrType | inspect.UnionType):
            values[key] = "".join(
                draw.choices(['"', "\\", "\n", "\x7f", "\x1b", "é", "\u2028", "😀", "#", "'", "a"], k=9)
            )
        elif isinstance(kind, inspect.IntType):
            values[key] = draw.randint(kind.ge, kind.le)
        else:
            low = kind.ge if kind.ge is not None else kind.gt
            values[key] = (
                low + draw.random() * min((kind.le or kind.lt) - low, 10.0 ** draw.randint(-30, 30)) or kind.le
            )
    values["freeze"] = draw.choice(["", "embedding", " Positions,layers 0,"])
    values["encoding"] = draw.choice(["", "cp1252"])
    values |= {"num_heads": 1, "micro_batch_size": 0} | {key: f"/{values[key]}" for key in PATHS}
    if values["positions"] == "rope":
        values |= {"freeze": "embedding", "d_model": max(2, values["d_model"] // 2 * 2)}
    if values["hold_out"]:
        values["eval_file"] = ""
    if values["best_metric"] == "accuracy":
        values["improvement_threshold"] = min(values["improvement_threshold"], 1.0)
    one_rate = values.pop("learning_rate")
    return msgspec.convert(values | (dict.fromkeys(GROUP_RATES, one_rate) if seed % 2 else {}), Settings)


@pytest.mark.parametrize("seed", range(20))
def test_settings_written_as_toml_load_to_equal_settings(tmp_path, seed):
    expected = random_settings(seed)
    resolved = read_overrides("micro", options=msgspec.structs.asdict(expected)).apply_to()
    assert resolved.settings == expected
    again = read_overrides(config_file=config(tmp_path, as_toml(*resolved))).apply_to()
    assert again.settings == expected
    assert "# model: custom" in as_toml(*resolved)
    assert tomllib.loads(as_toml(*resolved))["seed"] == expected.seed


def test_settings_written_as_toml_have_source_and_description():
    lines = as_toml(*read_overrides("nano", assignments=["layers=2"]).apply_to()).splitlines()
    assert any(line.startswith("layers = 2 ") and line.endswith("# [--set] transformer blocks (L)") for line in lines)
    assigned = {line.removeprefix("# ").partition(" = ")[0]: line for line in lines if " = " in line}
    assert [name for name in fields() if name in assigned] == [name for name in fields() if name not in GROUP_RATES]
    assert all("  # [" in line for name, line in assigned.items() if name in fields())


def test_a_printed_config_has_one_learning_rate_where_the_groups_share_it(tmp_path):
    shared, mixed = read_overrides("nano").apply_to(), read_overrides("nano", assignments=["pos_lr=0.5"]).apply_to()
    names = [
        {line.partition(" = ")[0] for line in as_toml(*resolved).splitlines() if not line.startswith("#")}
        for resolved in (shared, mixed)
    ]
    assert "learning_rate" in names[0]
    assert not names[0] & {*GROUP_RATES}
    assert names[1] >= {*GROUP_RATES}
    assert "learning_rate" not in names[1]
    printed = config(tmp_path, as_toml(*shared).replace("learning_rate = 0.003", "learning_rate = 0.001"))
    assert read_overrides(config_file=printed).apply_to().settings.learning_rate == 0.001, (
        "an edit of the printed file is in force"
    )
    assert "learning_rate = 0.001" in changes_as_toml(
        "nano", read_overrides(config_file=printed).apply_to().settings, tmp_path
    )


def test_relative_paths_of_a_config_file_count_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    path = config(tmp_path / "runs", 'train_file = "t.txt"\neval_file = "/e.txt"\nmodels_dir = "../models"\n')
    settings = read_overrides(config_file=path).apply_to().settings
    assert (settings.train_file, settings.eval_file) == (str(tmp_path / "runs" / "t.txt"), "/e.txt")
    assert settings.models_dir == str(tmp_path / "runs" / ".." / "models")
    relative = (
        read_overrides(config_file=path.relative_to(tmp_path), assignments=["eval_file=e.txt"]).apply_to().settings
    )
    assert (relative.train_file, relative.eval_file) == ("runs/t.txt", "e.txt")
    assert read_overrides(config_file=config(tmp_path, 'train_file = ""')).apply_to().settings.train_file == ""


def test_a_printed_config_names_the_same_files_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved = read_overrides(assignments=["train_file=t.txt", "models_dir=a/models"]).apply_to()
    (tmp_path / "elsewhere").mkdir()
    again = read_overrides(config_file=config(tmp_path / "elsewhere", as_toml(*resolved))).apply_to().settings
    assert (again.train_file, again.models_dir) == (str(tmp_path / "t.txt"), str(tmp_path / "a" / "models"))
    printed = config(tmp_path / "elsewhere", as_toml(*read_overrides().apply_to()))
    default = read_overrides(config_file=printed).apply_to().settings
    assert default == read_overrides().apply_to().settings


def test_a_saved_config_names_files_below_its_folder_relative_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    settings = (
        read_overrides(assignments=["train_file=runs/t.txt", "eval_file=e.txt", "models_dir=runs/~x"])
        .apply_to()
        .settings
    )
    written = changes_as_toml("nano", settings, tmp_path / "runs")
    assert tomllib.loads(written)["train_file"] == "t.txt"
    assert tomllib.loads(written)["eval_file"] == str(tmp_path / "e.txt")
    again = read_overrides(config_file=config(tmp_path / "runs", written)).apply_to().settings
    assert again.models_dir == str(tmp_path / "runs" / "~x")


def test_a_relative_path_of_a_config_file_that_begins_with_a_tilde_stays_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config(tmp_path, 'train_file = "./~x"\n')
    settings = read_overrides(config_file=Path("run.toml")).apply_to().settings
    assert (
        read_overrides(assignments=[f"train_file={settings.train_file}"]).apply_to().settings.train_file
        == settings.train_file
    )


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfseed = 7\n", b"\xef\xbb\xbf# x\r\nseed = 7\r\n", b"seed = 7\r\n"])
def test_a_byte_order_mark_and_crlf_line_ends_are_accepted(tmp_path, text):
    assert read_overrides(config_file=config(tmp_path, text)).apply_to().settings.seed == 7


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_config_file_in_another_encoding_is_reported_with_the_conversion(tmp_path, encoding):
    path = config(tmp_path, "seed = 7\nlayers = 3\n".encode(encoding))
    message = refusal(config_file=path)
    assert message.startswith(f"{path}: got {encoding[:6].upper()} text, expected TOML in UTF-8; convert it")


def test_read_config_does_not_check_values(tmp_path):
    assert read_config(config(tmp_path, "any = 1")) == {"any": 1}
