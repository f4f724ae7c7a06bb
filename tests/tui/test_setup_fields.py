"""Set-up screen without an app: fields and the config file."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.resolve import read_overrides
from gpt_core.config.settings import GROUP_RATES
from gpt_core.config.validation import fields, groups
from gpt_core.errors import ConfigError
from gpt_tui.new_run.effects import EFFECTS
from gpt_tui.new_run.fields import (
    GROUP_ORDER,
    INDEPENDENT,
    changed,
    changed_note,
    explanation,
    named_preset,
    note,
    setup_fields,
    texts_of,
    validate,
    with_linked,
    with_preset,
)
from gpt_tui.new_run.files import path_problem, save_config
from gpt_tui.new_run.panel import sentence

NANO = preset("nano")


def no_problem(_name: str, _path: str) -> str:
    return ""


def problems_of(**texts: str) -> dict[str, str]:
    return validate(texts_of(NANO) | texts, no_problem).problems


# ---- fields


def test_every_setting_with_a_choice_is_a_field_and_the_shape_is_first():
    names = [field.name for field in setup_fields()]
    assert sorted(names) == sorted(fields())
    assert names[:6] == ["d_model", "hidden_size", "vocab_size", "num_heads", "seq_len", "layers"]
    assert setup_fields()[0].group == "model shape"
    assert {field.name: field.choices for field in setup_fields()}["document"] == ("file", "line", "paragraph")


def test_names_and_titles_fit_into_their_column():
    assert set(GROUP_ORDER) == set(groups())
    assert max(len(words) for field in setup_fields() for words in (field.name, field.group)) <= 22


@pytest.mark.parametrize("name", PRESETS)
def test_the_texts_of_a_preset_parse_to_the_preset(name: str):
    assert validate(texts_of(preset(name)), no_problem) == (preset(name), {})


def test_numbers_are_formatted_as_typed():
    texts = texts_of(NANO)
    assert (texts["attn_lr"], texts["adam_eps"], texts["save_every_minutes"], texts["debug"]) == (
        "0.003", "1e-08", "5", "false",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("layers", "six", "layers: got 'six', expected a whole number of at least 1 and at most 1024"),
        ("layers", "", "layers: got ''"),
        ("layers", "2.5", "layers: got '2.5'"),
        ("layers", "0", "layers: got 0"),
        ("attn_lr", "11", "attn_lr: got 11, expected a number of at least 0 and at most 10"),
        ("attn_lr", "nan", "attn_lr: got nan"),
        ("models_dir", "", "models_dir: got '', expected text that is not empty"),
        ("num_heads", "5", "num_heads: got 5, expected a divisor of d_model (128); nearest: 4 or 8"),
        ("micro_batch_size", "3", "micro_batch_size: got 3, expected a divisor of batch_size (16)"),
        ("layers", "9" * 5000, "layers: got"),
    ],
)
def test_an_invalid_field_is_named_with_its_valid_values(name: str, text: str, words: str):
    problems = problems_of(**{name: text})
    assert list(problems) == [name]
    assert problems[name].startswith(words)
    assert "\n" not in problems[name]
    assert "from" not in problems[name]


def test_every_invalid_field_is_named():
    assert set(problems_of(layers="x", top_p="2", seed="-1")) == {"layers", "top_p", "seed"}


def test_spaces_and_underscores_are_ignored():
    found = validate(texts_of(NANO) | {"layers": " 6 ", "attn_lr": "3e-4", "vocab_size": "4_096"}, no_problem)
    assert found.settings is not None
    assert (found.settings.layers, found.settings.attn_lr, found.settings.vocab_size) == (6, 3e-4, 4096)


def test_paths_are_validated(tmp_path: Path):
    (tmp_path / "a.en").write_text("text")
    assert path_problem("train_file", str(tmp_path / "a.en")) == ""
    assert "no such file" in path_problem("train_file", str(tmp_path / "b.en"))
    assert path_problem("eval_file", str(tmp_path)) == ""
    assert path_problem("eval_file", str(tmp_path / "*.en")) == ""
    assert "file" in path_problem("train_file", "a\0b")
    assert path_problem("models_dir", str(tmp_path / "new")) == ""
    assert "not a folder" in path_problem("models_dir", str(tmp_path / "a.en"))
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in path_problem("train_file", str(tmp_path / "fifo"))
    padded = validate(texts_of(NANO) | {"models_dir": f" {tmp_path / 'new'} "}, path_problem)
    assert padded.settings is not None
    assert padded.settings.models_dir == str(tmp_path / "new")
    found = validate(texts_of(NANO) | {"train_file": str(tmp_path / "b.en")}, path_problem)
    assert found.problems["train_file"].startswith("train_file: no such file; expected a text file")


def test_a_models_folder_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "closed").mkdir()
    real = os.access  # root may write to every folder
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and real(path, mode))
    for folder in ("closed", "closed/new/one"):
        problem = path_problem("models_dir", str(tmp_path / folder))
        assert problem.startswith(f"no permission to write to {tmp_path / 'closed'}; expected")
    assert path_problem("models_dir", str(tmp_path / "new" / "one")) == ""


def test_several_texts_are_typed_with_semicolons(tmp_path: Path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("text")
    typed = f"{tmp_path}/a.txt; {tmp_path}/b.txt"
    found = validate(texts_of(NANO) | {"train_file": typed}, path_problem)
    assert found.settings is not None
    assert found.settings.train_file == (f"{tmp_path}/a.txt", f"{tmp_path}/b.txt")
    assert texts_of(found.settings)["train_file"] == typed
    wrong = validate(texts_of(NANO) | {"train_file": f"{typed}; nowhere.txt"}, path_problem)
    assert wrong.problems["train_file"].startswith("train_file: no such file")


def test_a_preset_sets_all_fields_except_files_folder_threads_and_seed():
    typed = texts_of(NANO) | {"layers": "9", "top_k": "5", "train_file": "x.en", "seed": "3", "threads": "1"}
    filled = with_preset(typed, "mini")
    assert {name: filled[name] for name in INDEPENDENT} == {name: typed[name] for name in INDEPENDENT}
    assert changed(filled, "mini") == frozenset()


def test_fields_that_differ_from_the_preset_are_named():
    assert changed(texts_of(NANO) | {"layers": "6", "attn_lr": "3e-3", "top_k": "x"}, "nano") == {"layers", "top_k"}


def test_the_field_learning_rate_and_those_of_the_groups_set_each_other():
    typed = with_linked(texts_of(NANO) | {"learning_rate": "1e-4"}, "learning_rate")
    assert [typed[name] for name in GROUP_RATES] == ["1e-4"] * 5
    assert validate(typed, no_problem).settings.learning_rate == 1e-4
    one_group = with_linked(typed | {"pos_lr": "0.5"}, "pos_lr")
    assert (one_group["learning_rate"], one_group["attn_lr"]) == ("", "1e-4")
    settings = validate(one_group, no_problem).settings
    assert (settings.pos_lr, settings.attn_lr) == (0.5, 1e-4)
    assert with_linked(one_group | {"pos_lr": "0.0001"}, "pos_lr")["learning_rate"] == "0.0001"
    assert changed(typed, "nano") == {"learning_rate", *GROUP_RATES}
    assert texts_of(preset("mini"))["learning_rate"] == ""


def test_a_learning_rate_for_all_groups_counts_as_one_change():
    shared = with_linked(texts_of(NANO) | {"learning_rate": "0.01", "max_steps": "300"}, "learning_rate")
    assert changed_note(shared, "nano") == "• 2 changed from nano"
    assert changed_note(with_linked(texts_of(NANO) | {"mlp_lr": "0.01"}, "mlp_lr"), "nano") == "• 1 changed from nano"
    assert changed_note(texts_of(NANO), "nano") == ""


def test_a_decimal_comma_is_refused_with_the_number_that_was_meant():
    problem = "learning_rate: got '0,01', expected a number of at least 0 and at most 10; did you mean 0.01?"
    assert problems_of(learning_rate="0,01") == {"learning_rate": problem}
    assert "did you mean" not in problems_of(learning_rate="1,2,3")["learning_rate"]
    assert "did you mean" not in problems_of(layers="4,0")["layers"]


def test_large_bounds_are_powers_of_two():
    assert explanation("decay_steps", "nano")[1] == "a whole number of at least 0 and at most 2^50; nano: 4000"
    assert explanation("seed", "nano")[1] == "a whole number of at least 0 and at most 2^63 - 1; default: 0"


def test_every_field_is_explained_with_its_effect():
    names = {"preset", *(field.name for field in setup_fields())}
    assert names <= EFFECTS.keys()
    assert EFFECTS.keys() == names
    assert all(effect.endswith(".") and len(effect) <= 100 for effect in EFFECTS.values())
    assert note("layers") == "transformer blocks (L)"


def test_an_explanation_that_starts_with_a_value_keeps_its_case():
    choices = fields()["norm"].choices()
    assert sentence(note("norm"), choices).startswith("layer_norm: mean 0")
    assert sentence(note("mlp"), fields()["mlp"].choices()).startswith("Activation of the MLP")


def test_an_invalid_learning_rate_is_one_error_and_leaves_the_groups():
    typed = with_linked(texts_of(NANO) | {"learning_rate": "11"}, "learning_rate")
    assert typed["attn_lr"] == "0.003"
    assert list(validate(typed, no_problem).problems) == ["learning_rate"]


def test_a_custom_shape_has_no_preset_name():
    assert named_preset(msgspec.structs.replace(NANO, attn_lr=1.0), "nano") == "nano"
    assert named_preset(msgspec.structs.replace(NANO, layers=6), "nano") == ""


@pytest.mark.parametrize("name", ["preset", *fields()])
def test_every_field_has_an_explanation_and_valid_values(name: str):
    meaning, may_be = explanation(name, "nano")
    assert meaning.startswith(f"{name}: ")
    assert may_be
    assert len(may_be) < 150


# ---- the config file


@pytest.mark.parametrize("name", PRESETS)
def test_a_saved_config_file_resolves_to_the_same_settings(tmp_path: Path, name: str):
    odd = {
        "layers": 6,
        "attn_lr": 1.5e-3,
        "sample_prompt": 'He said: "no" \\ é\u2028',
        "debug": True,
        "document": "line",
    }
    settings = msgspec.structs.replace(preset(name), models_dir=str(tmp_path), seed=7, **odd)
    save_config(tmp_path / "run.toml", name, settings, overwrite=False)
    assert read_overrides(config_file=tmp_path / "run.toml").apply_to().settings == settings
    text = (tmp_path / "run.toml").read_text()
    assert "layers = 6 " in text
    assert ("d_model" in text) is False


def test_an_existing_file_is_replaced_only_with_overwrite(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        save_config(path, "nano", NANO, overwrite=False)
    assert path.read_text() == "mine"
    save_config(path, "nano", NANO, overwrite=True)
    assert 'preset = "nano"' in path.read_text()
    assert os.listdir(tmp_path) == ["run.toml"]


@pytest.mark.parametrize("name", ["", "no/such/folder/run.toml"])
def test_a_failed_save_is_reported_in_one_line(tmp_path: Path, name: str):
    with pytest.raises(ConfigError) as raised:
        save_config(tmp_path / name, "nano", NANO, overwrite=True)
    assert "\n" not in str(raised.value)


def test_the_preset_of_the_experiment_brings_its_text_and_another_preset_takes_it_away():
    texts = texts_of(NANO)
    chosen = with_preset(texts, "induction")
    assert (chosen["synthetic_text"], chosen["layers"], chosen["train_file"]) == ("induction", "2", texts["train_file"])
    assert with_preset(chosen, "nano") == texts
