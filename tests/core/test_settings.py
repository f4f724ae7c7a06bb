import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import inspect

from gpt_core.config.presets import PRESETS, preset, shape_name
from gpt_core.config.resolve import check_resumable, read_overrides
from gpt_core.config.settings import GROUP_RATES, ModelShape, Settings
from gpt_core.config.toml_file import as_toml, changes_as_toml
from gpt_core.config.validation import PATHS, check_together, checked, fields, groups, names_as_text, parsed
from gpt_core.errors import CheckpointError, ConfigError
from tests.core.config_samples import config, refusal

FLOATS = [key for key, field in fields().items() if isinstance(field.kind, inspect.FloatType)]
NUMBERS = [key for key, field in fields().items() if isinstance(field.kind, inspect.IntType | inspect.FloatType)]


def test_a_model_has_the_name_of_the_preset_with_its_shape_or_is_custom():
    assert [shape_name(preset(name).shape) for name in PRESETS] == list(PRESETS)
    custom = msgspec.structs.replace(preset("nano"), d_model=256)
    assert shape_name(custom.shape) == "custom"
    assert shape_name(msgspec.structs.replace(custom, d_model=128, seed=5).shape) == "nano"


def test_the_default_preset_is_nano():
    resolved = read_overrides().apply_to()
    assert resolved.preset == "nano"
    assert resolved.settings == preset("nano")
    assert resolved.sources["d_model"] == "preset nano"
    assert resolved.sources["adam_beta1"] == "default"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_satisfies_the_bounds_and_the_cross_checks(name):
    resolved = read_overrides(name).apply_to()
    assert resolved.settings == preset(name)
    assert {key for key, source in resolved.sources.items() if source == f"preset {name}"} == set(PRESETS[name])


def test_each_source_overrides_the_one_before_and_is_recorded(tmp_path):
    path = config(tmp_path, 'preset = "micro"\nseed = 1\nthreads = 1\npatience = 1\n')
    file_only = read_overrides(config_file=path).apply_to()
    assert (file_only.preset, file_only.settings.layers, file_only.settings.seed) == ("micro", 7, 1)
    resolved = read_overrides(
        "nano",
        path,
        ["threads=2", "patience=2", "overfit_tiny=no"],
        {"patience": 3, "seed": None},
        {"OVERFIT_TINY": "1"},
    ).apply_to()
    settings, sources = resolved.settings, resolved.sources
    assert (settings.layers, sources["layers"]) == (4, "preset nano")
    assert (settings.seed, sources["seed"]) == (1, str(path))
    assert (settings.threads, sources["threads"]) == (2, "--set")
    assert (settings.patience, sources["patience"]) == (3, "--patience")
    assert (settings.overfit_tiny, sources["overfit_tiny"]) == (False, "--set")


@pytest.mark.parametrize(("word", "tiny"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_environment_variable_sets_overfit_tiny(word, tiny):
    resolved = read_overrides(environ={"OVERFIT_TINY": word}).apply_to()
    assert resolved.settings.overfit_tiny is tiny
    assert resolved.sources["overfit_tiny"] == ("OVERFIT_TINY" if word else "default")
    assert "OVERFIT_TINY" in refusal(environ={"OVERFIT_TINY": "perhaps"})


def test_words_are_parsed_by_the_type_of_the_setting():
    settings = (
        read_overrides(
            assignments=["seed=7", "attn_lr=3e-4", "debug=TRUE", "train_file=a=b c.en", "adam_eps=1", "document=line"]
        )
        .apply_to()
        .settings
    )
    assert (settings.seed, settings.attn_lr, settings.debug) == (7, 3e-4, True)
    assert (settings.train_file, settings.adam_eps, settings.document) == ("a=b c.en", 1.0, "line")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("batchsize", "batch_size"),
        ("AttnLR", "attn_lr"),
        ("learning-rat", "learning_rate"),
        ("d-model", "d_model"),
        ("temprature", "temperature"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_closest_one(tmp_path, typed, meant):
    for message in (
        refusal(assignments=[f"{typed}=1"]),
        refusal(options={typed: 1}),
        refusal(config_file=config(tmp_path, f"{typed} = 1")),
    ):
        assert f"'{typed}'" in message
        assert f"did you mean {meant}?" in message


@pytest.mark.parametrize("key", ["adam_beta1", "adam_beta2", "muon_beta", "ema", "outer_momentum"])
def test_a_decay_rate_is_below_1_in_float32(key):
    highest = fields()[key].kind.le
    assert np.float32(highest) < 1
    assert checked(key, highest) == highest
    for value in (0.99999999, 1):
        with pytest.raises(ConfigError, match=rf"{key}: got {value}, expected a .* at least 0 and at most 0\.999999$"):
            checked(key, value)


@pytest.mark.parametrize("given", [np.float64(0.5), np.float32(0.5), np.int64(1), np.uint8(1), np.array(1)])
def test_numpy_numbers_are_settings_as_python_numbers_are(given):
    accepted = checked("temperature", given)
    assert (accepted, isinstance(accepted, float)) == (given.item(), True)
    assert checked("top_k", np.int64(3)) == 3
    assert checked("hold_out", np.bool_(True)) is True
    with pytest.raises(ConfigError, match="top_k: got -1, expected a whole number of at least 0"):
        checked("top_k", np.int64(-1))
    with pytest.raises(ConfigError, match=r"top_k: got 1\.5, expected a whole number"):
        checked("top_k", np.float64(1.5))


def test_an_unknown_setting_similar_to_none_refers_to_the_list():
    assert "gpt-tui config" in refusal(assignments=["zzzzqqqq=1"])


def test_an_unknown_preset_is_answered_with_the_closest_one_or_all(tmp_path):
    assert "did you mean mini?" in refusal("minni")
    assert "nano, micro, mini" in refusal("zzz")
    assert "unknown preset 3" in refusal(config_file=config(tmp_path, "preset = 3"))


@pytest.mark.parametrize("key", fields())
def test_a_wrong_type_names_setting_value_expected_values_and_source(tmp_path, key):
    kind = fields()[key].kind
    wrong = {inspect.BoolType: "2", inspect.StrType: "3", inspect.UnionType: "3", inspect.LiteralType: "4"}.get(
        type(kind), '"many"'
    )
    path = config(tmp_path, f"{key} = {wrong}")
    message = refusal(config_file=path)
    assert message.startswith(f"{key}: got {wrong.replace(chr(34), chr(39))}, expected ")
    assert str(path) in message
    for nested in ("{ a = 1 }", "[1, 2]"):
        assert refusal(config_file=config(tmp_path, f"{key} = {nested}")).startswith(f"{key}: got a ")


@pytest.mark.parametrize(("typed", "meant"), [("tokenizer=piecs", "pieces"), ("document=paragrph", "paragraph")])
def test_an_unknown_choice_is_answered_with_the_closest_one(typed, meant):
    assert f"did you mean {meant}?" in refusal(assignments=[typed])


def test_each_setting_has_a_group_and_a_description_that_fits_on_a_line():
    names = [name for members in groups().values() for name in members]
    assert names == list(fields())
    assert groups()["model shape"] == ["d_model", "hidden_size", "vocab_size", "num_heads", "seq_len", "layers"]
    assert groups()["optimizer"][:2] == ["optimizer", "adam_beta1"]
    assert all(0 < len(field.description) <= 72 for field in fields().values())


@pytest.mark.parametrize("key", ["optimizer", "tokenizer"])
def test_the_description_names_every_registered_choice(key):
    assert [part.partition(":")[0] for part in fields()[key].description.split("; ")] == list(fields()[key].choices())


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_is_rejected_outside_its_bounds(key):
    kind = fields()[key].kind
    is_integer = isinstance(kind, inspect.IntType)
    low = kind.ge if kind.ge is not None else kind.gt
    high = kind.le if kind.le is not None else kind.lt
    assert low is not None
    assert high is not None
    just_below = low if kind.ge is None else (low - 1 if is_integer else -1.0)
    just_above = high if kind.le is None else (high + 1 if is_integer else high * 1.01)
    for value in (just_below, just_above):
        message = refusal(options={key: value})
        assert message.startswith(f"{key}: got {str(value).removesuffix('.0')}, expected a")
        assert f"(from --{key.replace('_', '-')})" in message
    powers = {2**50: "2^50", 2**63 - 1: "2^63 - 1"}
    shown = (str(high).removesuffix(".0"), f"{high:g}", powers.get(high, str(high)))
    assert any(f"{words} {bound} (" in message for words in ("at most", "less than") for bound in shown)


@pytest.mark.parametrize("key", FLOATS)
@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999"])
def test_floats_that_are_not_finite_are_rejected(tmp_path, key, word):
    assert refusal(assignments=[f"{key}={word}"]).startswith(f"{key}: got ")
    assert refusal(config_file=config(tmp_path, f"{key} = {word}")).startswith(f"{key}: got ")


def test_fractions_booleans_and_code_are_not_whole_numbers():
    for word in ("8.0", "true", "1 + 1", "__import__('os')", "0x10", ""):
        assert refusal(assignments=[f"batch_size={word}"]).startswith(
            f"batch_size: got {word!r}, expected a whole number"
        )
    assert refusal(options={"batch_size": True}).startswith("batch_size: got true")
    assert refusal(options={"batch_size": 8.0}).startswith("batch_size: got 8.0, expected a whole number")


def test_an_assignment_without_a_value_is_rejected():
    assert "expected KEY=VALUE" in refusal(assignments=["layers"])


def test_text_that_a_checkpoint_cannot_store_is_rejected():
    assert "train_file" in refusal(options={"train_file": "a\0b"})
    assert "UTF-8" in refusal(options={"train_file": "a\udcff"})


def test_heads_that_do_not_divide_the_channels_are_answered_with_the_nearest_divisors():
    message = refusal("nano", assignments=["num_heads=7"])
    assert message == "num_heads: got 7, expected a divisor of d_model (128); nearest: 4 or 8"
    assert "nearest: 127" in refusal("nano", assignments=["d_model=127", "num_heads=200"])


def test_a_micro_batch_divides_the_batch_or_is_at_least_as_large():
    message = refusal("nano", assignments=["batch_size=12", "micro_batch_size=8"])
    assert message.endswith("nearest: 6, 12, or 0 for all sequences at once")
    assert read_overrides("nano", assignments=["batch_size=12"]).apply_to().settings.micro_batch == 12
    assert read_overrides("nano", assignments=["batch_size=4"]).apply_to().settings.micro_batch == 4
    assert (
        read_overrides("nano", assignments=["batch_size=12", "micro_batch_size=0"]).apply_to().settings.micro_batch
        == 12
    )
    assert (
        read_overrides("nano", assignments=["batch_size=12", "micro_batch_size=3"]).apply_to().settings.micro_batch == 3
    )


def test_the_improvement_threshold_of_an_accuracy_is_a_fraction():
    assert (
        read_overrides("nano", assignments=["improvement_threshold=1.5"]).apply_to().settings.improvement_threshold
        == 1.5
    )
    with pytest.raises(ConfigError, match="at most 1"):
        read_overrides("mini", assignments=["improvement_threshold=1.5"]).apply_to()
    with pytest.raises(ConfigError, match="at most 1"):
        read_overrides("nano", assignments=["improvement_threshold=1.5", "best_metric=accuracy"]).apply_to()


def test_the_best_metric_is_the_loss_except_in_the_preset_of_the_go_project():
    assert {name: preset(name).best_metric for name in PRESETS} == {
        "nano": "loss",
        "micro": "loss",
        "mini": "accuracy",
        "induction": "loss",
    }


def test_learning_rate_sets_the_rates_of_all_groups(tmp_path):
    for sources in (
        {"assignments": ["learning_rate=2e-4"]},
        {"options": {"learning_rate": "2e-4"}},
        {"config_file": config(tmp_path, "learning_rate = 2e-4")},
    ):
        for name in ("nano", "mini"):
            settings = read_overrides(name, **sources).apply_to().settings
            assert [getattr(settings, group) for group in GROUP_RATES] == [2e-4] * 5
            assert settings.learning_rate == 2e-4
    assert preset("mini").learning_rate is None, "its rate of the embedding is a tenth of the others"


def test_the_rate_of_a_group_overrides_the_learning_rate_of_its_source(tmp_path):
    for sources in (
        {"config_file": config(tmp_path, "pos_lr = 0.5\nlearning_rate = 0.1")},
        {"assignments": ["pos_lr=0.5", "learning_rate=0.1"]},
        {"assignments": ["pos_lr=0.5"], "options": {"learning_rate": "0.1"}},
    ):
        settings = read_overrides(**sources).apply_to().settings
        assert (settings.pos_lr, settings.attn_lr, settings.learning_rate) == (0.5, 0.1, None)
    layered = read_overrides(assignments=["pos_lr=0.5"]).override("argument", {"learning_rate": 0.1})
    assert layered.apply_to().settings.learning_rate == 0.1


def test_learning_rate_overrides_the_groups_of_an_earlier_source(tmp_path):
    path = config(tmp_path, "pos_lr = 0.5")
    resolved = read_overrides(config_file=path, options={"learning_rate": "0.1"}).apply_to()
    assert resolved.settings.learning_rate == 0.1
    assert {resolved.sources[group] for group in GROUP_RATES} == {"--learning-rate"}
    base = msgspec.structs.replace(preset("micro"), attn_lr=0.5)
    assert read_overrides(options={"learning_rate": 0.1}).apply_to(base).settings.learning_rate == 0.1
    groups_last = (
        read_overrides(config_file=config(tmp_path, "learning_rate = 0.1"), assignments=["pos_lr=0.5"])
        .apply_to()
        .settings
    )
    assert (groups_last.pos_lr, groups_last.mlp_lr) == (0.5, 0.1)


NAMES = {
    "a.txt": "a.txt", "a b.txt": "a b.txt", " a": " a", "a.txt; b c.txt": ("a.txt", "b c.txt"),
    "texts;*.md;": ("texts", "*.md"), '["a;b", "c"]': ("a;b", "c"), '["a;b"]': "a;b", "[ab].txt": "[ab].txt",
    '["x"]': "x",
}  # fmt: skip


@pytest.mark.parametrize("word", NAMES)
def test_several_texts_are_one_word_separated_by_semicolons_or_a_list(word):
    settings = read_overrides(assignments=[f"train_file={word}"]).apply_to().settings
    assert settings.train_file == NAMES[word]
    again = parsed("train_file", names_as_text(settings.train_file))
    assert checked("train_file", again) == settings.train_file


def test_items_of_a_list_are_names_as_they_are(tmp_path):
    for value in (["a;b", "c"], ("a;b", Path("c"))):
        assert read_overrides(options={"train_file": value}).apply_to().settings.train_file == ("a;b", "c")
    assert read_overrides(options={"train_file": ["a;b"]}).apply_to().settings.train_file == "a;b"
    path = config(tmp_path, 'train_file = ["a;b", "/c"]\neval_file = ["e.txt"]')
    resolved = read_overrides(config_file=path).apply_to()
    settings = resolved.settings
    assert (settings.train_file, settings.eval_file) == ((str(tmp_path / "a;b"), "/c"), str(tmp_path / "e.txt"))
    again = read_overrides(config_file=config(tmp_path, as_toml(*resolved))).apply_to().settings
    assert again == settings
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings
    written = changes_as_toml(
        "nano", read_overrides(options={"train_file": ["a", "/b"]}).apply_to().settings, Path.cwd()
    )
    assert tomllib.loads(written)["train_file"] == ["a", "/b"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [([], "got an empty list"), (["a", ""], "got an empty name"), ([""], "got an empty name"),
     (["a", 1], "got a list"), (5, "got 5"),
     (["a", "b\0"], "got 'b\\x00', expected valid UTF-8 text without NUL characters"),
     (["a", "caf\udce9"], "got 'caf\\udce9', expected a file name in UTF-8; rename the file"),
     (["a", "~no-such-user-here/x"], "unknown home folder")],
)  # fmt: skip
def test_bad_lists_of_texts_are_named(value, expected):
    assert expected in refusal(options={"train_file": value})


@pytest.mark.parametrize("name", ["cp1252", "latin-1", "utf-16-le", "GB18030", "utf8", ""])
def test_encodings_are_accepted(name):
    assert read_overrides(assignments=[f"encoding={name}"]).apply_to().settings.encoding == name


@pytest.mark.parametrize("name", ["latin0", "base64", "rot13", "undefined", "idna", "punycode", "a\0b", "x" * 300])
def test_an_unknown_encoding_is_refused_with_examples(name):
    message = refusal(assignments=[f"encoding={name}"])
    assert message.startswith("encoding: got '")
    assert "expected the name of an encoding, such as cp1252" in message or "NUL" in message


@pytest.mark.parametrize("key", PATHS)
def test_a_leading_tilde_of_a_path_is_expanded_in_every_source(tmp_path, monkeypatch, key):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = config(tmp_path, f'{key} = "~/x.txt"\n')
    for overrides in (
        read_overrides(config_file=path), read_overrides(assignments=[f"{key}=~/x.txt"]),
        read_overrides(options={key: "~/x.txt"}),
    ):  # fmt: skip
        assert overrides.value(key) == str(tmp_path / "x.txt")
    message = refusal(assignments=[f"{key}=~no-such-user-here/x"])
    assert message.startswith(f"{key}: got '~no-such-user-here/x', which begins with an unknown home folder; write ./")
    assert getattr(read_overrides(assignments=[f"{key}=./~x"]).apply_to().settings, key) == "./~x"


def test_a_resume_starts_from_the_settings_of_the_checkpoint(tmp_path):
    base = msgspec.structs.replace(preset("micro"), attn_lr=0.5, seed=9)
    resolved = read_overrides(config_file=config(tmp_path, "seed = 10")).apply_to(base, base_preset="micro")
    assert resolved.preset == "micro"
    assert (resolved.settings.attn_lr, resolved.sources["attn_lr"]) == (0.5, "checkpoint")
    assert resolved.settings.seed == 10
    assert resolved.settings == msgspec.structs.replace(base, seed=10)


def test_on_a_resume_a_preset_contributes_its_shape_only():
    base = msgspec.structs.replace(preset("micro"), attn_lr=0.5)
    assert read_overrides("micro").apply_to(base).settings == base
    other = read_overrides("nano").apply_to(base).settings
    assert other.attn_lr == 0.5
    with pytest.raises(CheckpointError) as caught:
        check_resumable(base, other, "models/ckpt_latest.safetensors")
    for said in ("d_model is 320 in it, 128 was requested", "layers is 7 in it, 4", "models/ckpt_latest.safetensors"):
        assert said in str(caught.value)


def test_only_shape_tokenizer_document_optimizer_and_start_must_agree_with_a_checkpoint():
    base = preset("nano")
    for key in Settings.__struct_fields__:
        changed = msgspec.structs.replace(base, **{key: "other"})
        if key in {*ModelShape.__struct_fields__, "tokenizer", "document", "optimizer", "init_from"}:
            with pytest.raises(CheckpointError, match=key):
                check_resumable(base, changed, "x")
        else:
            check_resumable(base, changed, "x")


def test_settings_are_imported_without_numpy():
    code = "import sys, gpt_core.config.resolve; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_a_held_out_end_and_an_eval_file_contradict_each_other():
    with pytest.raises(ConfigError, match="hold_out: got true with eval_file"):
        check_together(Settings(hold_out=True, eval_file="own.txt"))
