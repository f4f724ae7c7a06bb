"""Set-up screen without an app: fields, estimate, config file, probe."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from textual.message import Message

from gpt_core.bench.estimate import StepTime
from gpt_core.config.presets import PRESETS, preset
from gpt_core.config.resolve import resolve
from gpt_core.config.settings import GROUP_RATES, Settings
from gpt_core.config.validation import fields, groups
from gpt_core.errors import ConfigError, CorpusError
from gpt_core.training.precision import PrecisionChoice
from gpt_tui.new_run.effects import EFFECTS
from gpt_tui.new_run.estimate import (
    OPTIONAL,
    READING,
    REASON,
    TIMING,
    RunEstimate,
    estimate_rows,
    same_texts,
    step_time,
)
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
from gpt_tui.new_run.panel import wrapped_rows
from gpt_tui.new_run.probe import Prober, Probes, StepTimed, TextsRead
from gpt_tui.shared.rows import Row, fit_rows
from tests.tui.app_bench import DEADLINE_S
from tests.tui.fake_probes import fake_probes, fake_texts, fake_time

NANO = preset("nano")


def no_problem(_name: str, _path: str) -> str:
    return ""


def problems_of(**texts: str) -> dict[str, str]:
    return validate(texts_of(NANO) | texts, no_problem).problems


# ---- fields


def test_every_setting_with_a_choice_is_a_field_and_the_shape_is_first():
    names = [field.name for field in setup_fields()]
    assert sorted(names) == sorted(set(fields()) - {"optimizer"})
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
        ("attn_lr", "11", "attn_lr: got 11.0, expected a number of at least 0 and at most 10"),
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
    found = validate(texts_of(NANO) | {"train_file": str(tmp_path / "b.en")}, path_problem)
    assert found.problems["train_file"].startswith("train_file: no such file; expected a text file")


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
    assert EFFECTS.keys() - names <= {"optimizer"}, "settings with a single choice have no field"
    assert all(effect.endswith(".") and len(effect) <= 100 for effect in EFFECTS.values())
    assert note("layers") == "transformer blocks (L)"


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
    assert resolve(config_file=tmp_path / "run.toml").settings == settings
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


# ---- estimate


def shown(estimate: RunEstimate) -> dict[str, str]:
    rows: dict[str, str] = {}
    for row in estimate_rows(estimate):
        label = row.label.strip() or f"{list(rows)[-1].split('/')[0]}/{len(rows)}" if rows else row.label
        rows[label] = row.value
    return rows


@pytest.mark.usefixtures("fixed_activation_memory")
def test_the_estimate_has_size_text_and_time():
    rows = shown(RunEstimate(NANO, 2, 4_000_000_000, fake_texts(NANO), "", StepTime(0.05, 0.001)))
    assert rows["parameters"] == "1,194,752"
    assert rows["memory"] == "139 MB, 4.0 GB free"
    assert rows["checkpoint"] == "14.3 MB"
    assert rows["text"] == "train.en, 3.6 MB"
    assert rows["epoch"] == "1.21M tokens"
    assert rows["throughput"] == "20.1k tokens/s"
    assert rows["per step"] == "51.0 ms"
    assert rows["per epoch"].startswith("1 min")
    assert "1,178 steps" in rows.values()
    assert "23,560 steps" in rows.values()


def test_the_estimate_names_the_number_format_and_the_reason_for_it():
    chosen = PrecisionChoice("bfloat16", "1.5 times as fast as float32")
    rows = estimate_rows(RunEstimate(NANO, time=StepTime(0.05, 0.001, chosen)))
    at = next(index for index, row in enumerate(rows) if row.label == "precision")
    assert [row.value for row in rows[at : at + 2]] == ["bfloat16", "1.5 times as fast as float32"]
    named = estimate_rows(RunEstimate(NANO, time=StepTime(0.05, 0.001, PrecisionChoice("bfloat16", ""))))
    assert len(named) == len(rows) - 1
    assert rows[at + 1] not in fit_rows(rows, len(rows) - 3, OPTIONAL)


def test_unknown_values_are_replaced_by_the_reason():
    assert shown(RunEstimate(NANO))["throughput"] == TIMING
    assert shown(RunEstimate(NANO))["text"] == READING
    rows = {
        row.label: row
        for row in estimate_rows(RunEstimate(NANO, texts_problem="cannot be read", time_problem="not timed"))
    }
    assert (rows["text"].value, rows["text"].tone) == ("cannot be read", "bad")
    assert (rows["throughput"].value, rows["throughput"].tone) == ("not timed", "bad")
    assert estimate_rows(RunEstimate())[0].label.startswith("Fix the fields marked ✗")
    guess = fake_texts(NANO)._replace(counted=False)
    assert shown(RunEstimate(NANO, texts=guess))["epoch"] == "about 1.21M tokens"


def test_the_estimate_shows_a_sample_of_the_text():
    rows = shown(RunEstimate(NANO, texts=fake_texts(NANO)))
    assert rows["begins"] == "It is a truth universally acknowledged"
    assert rows["documents"] == "11.4k"
    assert "2.95 bytes per token" in rows.values()
    several = fake_texts(NANO)._replace(train_name="texts/", files=12, counted=False, documents_counted=False)
    rows = shown(RunEstimate(NANO, texts=several))
    assert rows["text"] == "texts, 12 files, 3.6 MB"
    assert rows["documents"] == "about 11.4k"
    assert "about 2.95 bytes per token" in rows.values()


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


def test_text_statistics_are_reused_until_a_text_setting_changes():
    estimate = RunEstimate(NANO, texts=fake_texts(NANO))
    assert same_texts(estimate, msgspec.structs.replace(NANO, layers=6, attn_lr=0.1))
    assert not same_texts(estimate, msgspec.structs.replace(NANO, vocab_size=4096))
    assert not same_texts(RunEstimate(), NANO)


def test_insufficient_memory_is_marked():
    rows = {row.label: row for row in estimate_rows(RunEstimate(preset("mini"), 2, 1_000_000_000))}
    assert rows["memory"].tone == "bad"
    assert rows["memory"].value.startswith("✗ 1.6 GB, 1.0 GB free")


def test_the_self_test_has_lines_instead_of_epochs():
    settings = msgspec.structs.replace(NANO, overfit_tiny=True)
    rows = shown(RunEstimate(settings, texts=fake_texts(settings), time=StepTime(0.1, 0.0)))
    assert rows["lines"] == "the first 100"
    assert rows["total"] == "up to 4 min 10 s"
    assert not {"epoch", "per epoch"} & rows.keys()


@pytest.mark.parametrize("height", [40, 15, 12, 3])
def test_rules_and_details_are_dropped_in_a_low_panel(height: int):
    rows = fit_rows(
        estimate_rows(RunEstimate(NANO, 2, None, fake_texts(NANO), "", StepTime(0.05, 0.001))), height, OPTIONAL
    )
    assert {"parameters", "memory", "throughput", "per epoch", "total"} <= {row.label for row in rows}
    assert len(rows) <= max(height, 12)


def test_all_lines_of_a_long_reason_are_dropped_together():
    rows = [
        Row("precision", "float32"),
        Row(REASON, "this processor has no bfloat16 instructions"),
        Row("total", "1 h"),
    ]
    lines = wrapped_rows(rows, 20)
    assert [line.value for line in lines] == ["float32", "this processor has", "no bfloat16", "instructions", "1 h"]
    assert fit_rows(lines, 4, OPTIONAL) == [rows[0], rows[2]]
    assert fit_rows(lines, 5, OPTIONAL) == lines


def test_step_times_have_fixed_decimals():
    assert [step_time(s) for s in (0.0523, 0.9, 1.0, 8.34, 71)] == [
        "52.3 ms",
        "900.0 ms",
        "1.0 s",
        "8.3 s",
        "1 min 11 s",
    ]


# ---- probe


Kind = TypeVar("Kind", bound=Message)


class Answers:
    """Messages of a prober; `first` waits for the next one of a type."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._come: queue.Queue[Message] = queue.Queue()

    def post(self, message: Message) -> None:
        self.messages.append(message)
        self._come.put(message)

    def first(self, kind: type[Kind]) -> Kind:
        while not isinstance(message := self._come.get(timeout=DEADLINE_S), kind):
            pass
        return message


def prober(**others: object) -> tuple[Prober, Answers]:
    answers = Answers()
    return Prober(fake_probes(**others), answers.post), answers


def test_messages_carry_the_number_of_the_request():
    probe, answers = prober()
    number = probe.start(NANO)
    assert answers.first(TextsRead).texts == fake_texts(NANO)
    assert answers.first(StepTimed).step_time == fake_time(NANO, lambda: False)
    assert {message.number for message in answers.messages} == {number}  # type: ignore[attr-defined]


def test_a_known_step_time_is_not_measured_again():
    taken: list[Settings] = []

    def timed(settings: Settings, _stopped: Callable[[], bool]) -> StepTime:
        taken.append(settings)
        return StepTime(1.0, 0.0)

    probe, answers = prober(time=timed)
    for changes in ({}, {"attn_lr": 1.0}, {"layers": 2}):
        settings = msgspec.structs.replace(NANO, **changes)
        number = probe.start(settings)
        assert answers.first(StepTimed).number == number
    assert [settings.layers for settings in taken] == [4, 2]


def test_a_measurement_that_ends_as_a_new_request_begins_is_also_its_answer():
    began, answer, taken = threading.Event(), threading.Event(), []

    def timed(settings: Settings, _stopped: Callable[[], bool]) -> StepTime:
        taken.append(settings)
        began.set()
        assert answer.wait(DEADLINE_S)
        return StepTime(1.0, 0.0)

    probe, answers = prober(time=timed)
    first = probe.start(NANO)
    assert began.wait(DEADLINE_S)
    second = probe.start(msgspec.structs.replace(NANO, attn_lr=1.0))
    answer.set()
    assert [answers.first(StepTimed).number for _ in range(2)] == [first, second]
    assert taken == [NANO]


def test_a_new_request_stops_the_measurement_before_its_own():
    began, at_once = threading.Event(), []
    lock = threading.Lock()

    def timed(settings: Settings, stopped: Callable[[], bool]) -> StepTime | None:
        at_once.append(lock.acquire(blocking=False))
        began.set()
        try:
            while settings.layers == 4:
                if stopped():
                    return None
        finally:
            lock.release()
        return StepTime(1.0, 0.0)

    probe, answers = prober(time=timed)
    probe.start(NANO)
    assert began.wait(DEADLINE_S)
    number = probe.start(msgspec.structs.replace(NANO, layers=2))
    assert answers.first(StepTimed).number == number
    assert at_once == [True, True]


def test_a_request_cancelled_while_typing_probes_nothing():
    probed: list[Settings] = []
    probe, answers = prober(wait_s=60.0, texts=lambda settings: probed.append(settings))
    probe.start(NANO)
    probe.cancel()
    assert not answers.messages
    assert not probed


@pytest.mark.usefixtures("fixed_activation_memory")
@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"free_memory": lambda: 1_000_000}, "not timed: needs 139 MB, 1.0 MB free"),
        ({"time": lambda settings, stopped: bytearray(1 << 62)}, "not timed: not enough memory"),
        ({"time": lambda settings, stopped: 1 // 0}, "not timed: ZeroDivisionError"),
    ],
)
def test_a_failed_measurement_has_a_reason(others: dict[str, object], words: str):
    probe, answers = prober(**others)
    probe.start(NANO)
    message = answers.first(StepTimed)
    assert message.step_time is None
    assert message.problem.startswith(words)


def test_an_unreadable_text_is_reported_and_the_step_still_measured():
    def failing(_settings: Settings) -> None:
        raise CorpusError("cannot read the text \x1b[31m")

    probe, answers = prober(texts=failing)
    probe.start(NANO)
    read = answers.first(TextsRead)
    assert (read.texts, read.problem) == (None, r"cannot read the text \x1b[31m")
    assert answers.first(StepTimed).step_time


def test_default_probes_are_those_of_gpt_core():
    assert Probes().texts.__module__ == "gpt_core.bench.estimate"
