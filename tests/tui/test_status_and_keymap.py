"""Status rows, allowed actions, key table and sampling fields: pure functions."""

import math
from dataclasses import replace

import msgspec
import pytest

from gpt_core.config.presets import preset
from gpt_core.config.settings import NO_EPOCH_LIMIT
from gpt_core.errors import ConfigError
from gpt_core.training import events as ev
from gpt_tui.run_view.status import DROPPED_FIRST, status_rows
from gpt_tui.session.exchange_text import exchange_text
from gpt_tui.session.phase import Phase, SessionStatus
from gpt_tui.session.run_events import advance
from gpt_tui.session.run_state import Limits, LogLine, RunState
from gpt_tui.session.run_text import best_score
from gpt_tui.session.start_text import threads_text
from gpt_tui.shared.keymap import (
    KEYS,
    PLACE_TITLES,
    SCREENS,
    TABS,
    action_of,
    help_table,
    places_of,
    readable,
    shown_key,
    with_keys,
)
from gpt_tui.shared.rows import RULE, fit_rows
from gpt_tui.shell.help import INDENT, KEY_WIDTH, help_text
from gpt_tui.tabs.chat.presenter import EMPTY, FIELDS, NO_MODEL, initial_texts, parse_fields
from gpt_tui.tabs.checkpoints.presenter import empty_text
from gpt_tui.tabs.inside.help_texts import HELP
from gpt_tui.tabs.inside.presenter import MISSING_TEXTS, PUT_BACK
from gpt_tui.tabs.train.presenter import allowed, length, why_not
from tests.tui.samples import scored, started, step, trained


def values(history: RunState, phase: Phase = Phase.TRAINING, now_s: float = 0.0) -> dict[str, str]:
    rows = status_rows(history, SessionStatus(phase, now_s, 210_000_000), 40)
    return {row.label: row.value for row in rows if row.label}


def test_the_status_panel_has_every_value_of_a_run():
    history = advance(trained(350), scored(300, 0.312, 3.5))
    history = advance(history, ev.CheckpointSaved("latest", "models/ckpt_latest.safetensors", 340), at_s=100.0)
    shown = values(history, now_s=112.0)
    assert shown["state"] == "▶ training"
    assert shown["step"] == "350 of 2,000"
    assert shown["epoch"] == "4 of 20"
    assert shown["time left"] == "2 min 45 s"
    assert shown["throughput"] == "10.2k tokens/s"
    assert shown["eval loss"] == "3.500 nats per token"
    assert shown["accuracy"] == "31.2%"
    assert shown["best accuracy"] == "★ 31.2% at 300"
    assert shown["not improved"] == "0 of 3 evaluations"
    assert shown["memory"] == "210 MB"
    assert shown["saved"] == "at step 340, 12 s ago"
    status = SessionStatus(Phase.TRAINING, 112.0, 210_000_000)
    assert {row.label: row.value for row in status_rows(history, status, 32)}["saved"] == "step 340, 12 s ago"
    assert shown["learning rate"] == "1.00e-3"
    assert {"step loss", "train loss", "perplexity", "grad norm", "tokens", "bits/byte", "model", "time"} <= set(shown)


def test_a_time_budget_has_its_time_on_the_progress_bar_and_names_the_final_evaluation():
    history = advance(RunState(), started(step=100, minutes=1.0, elapsed_s=20.0, max_steps=1000, steps_per_epoch=5000))
    for at_step, percentage in ((440, " 73%"), (800, "100%")):
        run = replace(advance(history, step(at_step)), evaluating=0.127)
        [bar] = [
            row.value
            for row in status_rows(run, SessionStatus(Phase.TRAINING, 0.0, 1), 40)
            if "─" in row.value or "━" in row.value
        ]
        assert bar.endswith(percentage)
        is_final = percentage == "100%"
        assert values(run, Phase.EVALUATING)["state"] == f"◆ {'final evaluation' if is_final else 'evaluating'} 12.7%"


@pytest.mark.parametrize(
    ("width", "shown"),
    [(38, ["◆ evaluating 100.0%", "◆ final evaluation 9.5%"]), (32, ["◆ eval 100.0%", "◆ final eval 9.5%"]),
     (28, ["◆ eval 100.0%", "◆ eval 9.5%"])],
)  # fmt: skip
def test_the_progress_of_an_evaluation_is_not_cut_off_in_a_narrow_panel(width, shown):
    budget = advance(RunState(), started(minutes=1.0, max_steps=1000, steps_per_epoch=5000))
    runs = [replace(trained(10), evaluating=1.0), replace(advance(budget, step(800)), evaluating=0.095)]
    rows = [status_rows(run, SessionStatus(Phase.EVALUATING, 0.0, 1), width)[0] for run in runs]
    assert [row.value for row in rows] == shown


def test_the_score_of_a_part_of_the_eval_text_and_that_of_all_of_it_have_their_own_names():
    part = advance(trained(10), started(eval_tokens=9_000, eval_part_tokens=1_000))
    part = advance(part, scored(10, 0.3, 3.25))
    shown = values(part)
    assert shown["eval loss"] == "~3.250 nats per token"
    assert shown["accuracy"] == "~30.0%"
    assert shown["eval tokens"] == "~ 1.00k of 9.00k"
    narrow = {row.label: row.value for row in status_rows(part, SessionStatus(Phase.TRAINING), 28)}
    assert narrow["eval tokens"] == "~ 1.00k/9.00k"
    assert "full eval" not in shown
    full = advance(part, ev.FullEvalCompleted(10, 3.125, 22.8, 0.3, 2.0, 8_999))
    assert values(full)["full eval"] == "3.125 at 10"
    assert full.evaluations == part.evaluations
    assert full.log[-1].text.startswith("step 10: full eval loss 3.125, accuracy 30.0%")


def test_a_self_test_has_its_verdict_in_place_of_evaluations():
    history = advance(RunState(), started(kind="overfit-tiny"))
    assert "lines are checked at the end" in values(history)
    history = advance(history, ev.LinesReproduced(100, 98, 100, True))
    assert values(history)["self-test"] == "98 of 100 lines"
    assert [row.value for row in status_rows(history, SessionStatus(Phase.TRAINING), 28)].count("98 of 100") == 1
    assert history.log[-1] == LogLine(0.0, "good", "step 100: self-test works: 98 of 100 lines reproduced")
    history = advance(history, ev.LinesReproduced(100, 3, 100, False))
    assert history.log[-1] == LogLine(0.0, "bad", "step 100: self-test does not work: 3 of 100 lines reproduced")


def test_lines_that_a_self_test_does_not_reproduce_yet_are_no_failure():
    history = advance(RunState(), started(kind="overfit-tiny"))
    early = advance(history, ev.LinesReproduced(50, 3, 100, False, at_end=False))
    assert early.log[-1] == LogLine(0.0, "plain", "step 50: self-test 3 of 100 lines reproduced so far")
    works = advance(early, ev.LinesReproduced(60, 95, 100, True, at_end=False))
    assert works.log[-1] == LogLine(0.0, "good", "step 60: self-test works: 95 of 100 lines reproduced")


def test_a_run_whose_evaluations_score_all_of_the_eval_text_does_not_name_a_part():
    assert not {"eval tokens", "full eval"} & set(values(advance(trained(10), scored(10, 0.3, 3.25))))


@pytest.mark.parametrize(
    ("steps", "without", "label", "text"),
    [
        (100, 0, "not improved", "counted after step 100, the end of the warm-up"),
        (150, 1, "patience", "stops after 3 evaluations without improvement (1 so far)"),
        (150, 5, "patience", "stops after 200 steps without improvement (50 so far)"),
        (400, 3, "patience", "stops after 3 evaluations without improvement (3 so far)"),
    ],
)
def test_the_state_of_early_stopping_is_shown(steps: int, without: int, label: str, text: str):
    history = trained(steps)
    history = replace(history, limits=Limits(patience=3, patience_min_steps=200, warmup_steps=100))
    history = advance(history, scored(steps, 0.2, is_best=False, without_improvement=without))
    rows = {row.label: row.value for row in status_rows(history, SessionStatus(Phase.TRAINING), 80)}
    assert rows[label] == text
    narrow = {row.label: row.value for row in status_rows(history, SessionStatus(Phase.TRAINING), 38)}
    assert len(narrow["not improved"]) <= 24


def test_early_stopping_before_the_end_of_the_warmup_names_its_step_and_is_not_shown_after_the_run():
    history = replace(trained(80), limits=Limits(patience=3, warmup_steps=100))
    history = advance(history, scored(80, 0.2))
    narrow = {row.label: row.value for row in status_rows(history, SessionStatus(Phase.TRAINING), 32)}
    assert narrow["not improved"] == "from step 100"
    assert not {"not improved", "patience"} & set(values(advance(history, ev.RunFinished("stopped", 80))))


def test_the_best_score_is_that_of_the_metric():
    history = advance(RunState(), started(best_metric="loss"))
    history = advance(history, scored(300, 0.312, 3.5, is_best=True))
    assert values(history)["best loss"] == "★ 3.500 at 300"
    assert best_score(RunState()) == ""


def test_a_resumed_run_is_saved_at_the_step_that_it_resumes():
    assert values(trained(5))["saved"] == "not yet"
    resumed = advance(RunState(), started(step=27, resumed_from="models/ckpt_latest.safetensors"))
    assert values(resumed)["saved"] == "step 27 (resumed)"
    later = advance(RunState(), started(step=12_345, resumed_from="models/ckpt_latest.safetensors"))
    narrow = {row.label: row.value for row in status_rows(later, SessionStatus(Phase.TRAINING), 33)}
    assert narrow["saved"] == "step 12.3k"
    saved = advance(resumed, ev.CheckpointSaved("latest", "models/ckpt_latest.safetensors", 30), at_s=5.0)
    assert values(saved, now_s=7.0)["saved"] == "at step 30, 2 s ago"


def test_long_numbers_of_epochs_have_separators():
    history = replace(trained(5), limits=Limits(max_epochs=20_000))
    assert values(history)["epoch"] == "1 of 20,000"


def test_long_numbers_of_steps_are_not_cut_in_a_narrow_panel():
    def step_row(width: int) -> str:
        rows = status_rows(trained(1256), SessionStatus(Phase.TRAINING, 0.0, 0), width)
        return next(row.value for row in rows if row.label == "step")

    assert [step_row(width) for width in (28, 27, 20)] == ["1,256 of 2,000", "1,256/2,000", "1,256"]


def test_a_failed_save_and_a_loss_that_is_not_finite_stand_out():
    history = advance(trained(5), ev.SaveFailed("latest", "x", 5, "no space left on device"))
    history = advance(history, step(6, math.nan))
    rows = {row.label: row for row in status_rows(history, SessionStatus(Phase.TRAINING), 40)}
    assert (rows["saved"].tone, rows["step loss"].tone) == ("bad", "bad")
    assert rows["step loss"].value.startswith("not finite")


@pytest.mark.parametrize("height", [5, 12, 19, 40])
def test_a_low_panel_drops_rules_first_and_never_the_state(height):
    rows = status_rows(advance(trained(350), scored(300, 0.3)), SessionStatus(Phase.TRAINING), 40)
    fitting = fit_rows(rows, height, DROPPED_FIRST)
    assert fitting[0].label == "state"
    assert len(fitting) <= max(height, 14)
    assert RULE not in fitting or len(rows) <= height


@pytest.mark.parametrize("phase", list(Phase))
def test_allowed_actions_depend_on_the_phase(phase):
    can = allowed(phase, can_resume=True)
    assert ("start" in can) == (not phase.alive)
    assert ("stop" in can) == (phase.alive and phase is not Phase.STOPPING)
    assert not ({"start", "resume", "overfit"} & can) or not ({"pause", "save", "stop"} & can)
    assert "resume" not in allowed(phase, can_resume=False)


@pytest.mark.parametrize("phase", list(Phase))
def test_every_unavailable_key_has_a_reason(phase):
    for key in KEYS:
        if key.place == "train" and key.action not in allowed(phase, can_resume=False) | {"start_now"}:
            assert why_not(key.action, phase, {"start": "s", "stop": "x"})
    assert why_not("start", Phase.TRAINING, {"stop": "^x"}) == "a run is in progress (^x: stop)"
    assert why_not("start_now", Phase.TRAINING, {}) == ""


def test_a_keys_action_follows_the_users_keymap():
    assert action_of("space", "train", {}) == "pause"
    assert action_of("s", "train", {"train.start": "ctrl+s"}) == ""
    assert action_of("ctrl+s", "train", {"train.start": "ctrl+s"}) == "start"


def test_no_two_keys_of_one_tab_are_the_same_and_ids_are_unique():
    assert len({key.id for key in KEYS}) == len(KEYS)
    tabs = (
        {"train", "samples", "charts", "everywhere"},
        {"chat", "everywhere"},
        {"checkpoints"},
        {"setup", "everywhere"},
    )
    for places in tabs:
        names = [name for key in KEYS if key.place in places for name in key.keys.split(",")]
        assert len(names) == len(set(names))


def test_every_action_has_a_key_that_a_browser_passes_on():
    taken = {"ctrl+n", "ctrl+t", "ctrl+w", "ctrl+q"}  # new window, new tab, close the tab, quit
    assert [key.id for key in KEYS if {*key.keys.split(",")} <= taken] == []


def test_palette_names_are_clear_without_their_tab():
    labels = {key.id: key.label for key in KEYS}
    assert labels["chat.earlier"] == "Earlier prompt"
    assert labels["chat.later"] == "Later prompt"
    assert labels["charts.cursor_right"] == "Cursor right"
    assert labels["go.interrupt"] == "Save and quit"
    assert all(len(key.label) <= 11 for key in KEYS if key.footer)


def test_help_lists_every_key_and_follows_the_users_keymap():
    table = help_table(PLACE_TITLES, {"train.start": "ctrl+s"})
    assert sum(len(keys) for _, keys in table) == len(KEYS)
    assert ("^s", "Start a new run") in table[0][1]
    start = next(key for key in KEYS if key.id == "train.start")
    assert (shown_key(start, {}), shown_key(start, {"train.start": "f5"})) == ("s", "F5")
    assert [readable(name) for name in ("ctrl+q", "escape", "plus", "f1", "left")] == ["^q", "esc", "+", "F1", "←"]


@pytest.mark.parametrize("tab", [*TABS, "setup"])
@pytest.mark.parametrize("width", [40, 72, 78])
def test_help_has_descriptions_in_one_column_at_any_width(tab: str, width: int):
    table = help_table([*places_of(tab), "everywhere"], {}, typing=tab in ("chat", "setup"), of_tabs=tab in TABS)
    long_names = {names for _, rows in table for names, _ in rows if len(f"{INDENT}{names}") >= KEY_WIDTH}
    keys = [line for line in help_text(tab, {}, width).plain.split("\n") if line.startswith("  ")]
    assert keys
    assert max(map(len, keys)) <= width
    for line in keys:
        if line.strip() in long_names:
            continue
        names, description = line[:KEY_WIDTH], line[KEY_WIDTH:]
        assert names.endswith(" ")
        assert description[:1].strip()


def test_help_omits_keys_that_type_text_in_text_fields():
    for typing, names in ((False, "F2 or t"), (True, "F2")):
        (_, keys), *_ = help_table(["everywhere"], {}, typing=typing)
        assert (names, "Go to the Train tab") in keys


def test_help_lists_the_keys_of_the_tabs_only_where_they_work():
    for view in (*TABS, *SCREENS):
        assert ("Go to the Train tab" in help_text(view, {}, 78).plain) is (view in TABS)
        assert "Quit; asks first" in help_text(view, {}, 78).plain


def test_every_key_is_shown_by_a_name():
    assert "" not in {shown_key(key, {}) for key in KEYS}
    assert with_keys("{charts.cursor_left} {charts.cursor_right}", {"charts.cursor_right": "comma,x"}) == ", ,"


def test_texts_name_the_keys_that_the_preferences_choose():
    assert with_keys("{train.start}, {go.train}, {no.key}", {"train.start": "ctrl+k"}) == "^k, F2, {no.key}"
    for view in (*TABS, *SCREENS):
        assert "{" not in help_text(view, {}, 78).plain
    for about in HELP.values():
        assert "{" not in help_text("inside", {}, 78, about).plain
    texts = [EMPTY, NO_MODEL, *MISSING_TEXTS.values(), PUT_BACK]
    texts += [empty_text("models", (), running=running) for running in (False, True)]
    for text in texts:
        assert "{" not in with_keys(text, {})


def test_sampling_fields_begin_with_the_settings_and_mean_them():
    sampling, seed, weights = parse_fields(initial_texts(preset("nano")))
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.max_tokens) == (0.8, 0, 0.95, 200)
    assert (seed, weights) == (None, "float32")


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("temperature", "hot", "temperature"),
        ("temperature", "-1", "temperature"),
        ("temperature", "nan", "temperature"),
        ("top_k", "1.5", "top-k"),
        ("top_p", "0", "top-p: "),
        ("repetition_penalty", "", "repetition: "),
        ("repetition_penalty", "-1", "repetition: "),
        ("max_tokens", "0", "max tokens: "),
        ("seed", "-3", "seed"),
        ("weights", "int4", "weights"),
    ],
)
def test_a_field_that_means_nothing_is_named(name, text, named):
    with pytest.raises(ConfigError, match=named) as raised:
        parse_fields(initial_texts(preset("nano")) | {name: text})
    assert "chat" not in str(raised.value)


def test_every_field_is_a_setting():
    for field in FIELDS:
        assert hasattr(preset("nano"), field.name)


def exchanged(**changes: float) -> ev.ExchangeMeasured:
    figures = {"step": 300, "steps": 300, "sent_bytes": 1_440_000_000, "exchange_s": 12.0, "waited_s": 3.0}
    return ev.ExchangeMeasured(**(figures | {"training_s": 60.0} | changes))  # type: ignore[arg-type]


def test_the_status_panel_shows_the_exchange_of_a_run_on_several_ranks():
    run = advance(trained(350), exchanged())
    assert values(run)["exchange"] == "4.8 MB, 20.0%"
    wide = {row.label: row.value for row in status_rows(run, SessionStatus(Phase.TRAINING, 0.0, 1), 90)}
    assert wide["exchange"] == "4.8 MB sent per step, 20.0% of the time, 75.0% of it hidden"
    assert run.log[-1].text == "step 300: exchange 4.8 MB sent per step, 20.0% of the time, 75.0% of it hidden"


def test_the_status_panel_of_one_process_has_no_exchange():
    assert "exchange" not in values(trained(350))


def test_the_exchange_of_an_earlier_session_is_not_shown():
    assert advance(advance(trained(350), exchanged()), started(step=350)).exchange is None


def test_the_start_of_a_run_with_local_steps_has_the_steps_per_exchange():
    hosts = {"hosts": ("left", "right"), "threads": 1}
    assert threads_text(started(sync_every_steps=20, **hosts)) == (
        "2 ranks on 2 hosts, 1 thread per rank, 20 local steps per exchange"
    )
    assert threads_text(started(sync_every_steps=1, threads=2)) == "2 threads, 1 local step per exchange"
    assert threads_text(started(**hosts)) == "2 ranks on 2 hosts, 1 thread per rank"


def test_the_log_of_the_app_says_when_a_stop_takes_place():
    log = advance(trained(350), ev.RoundAwaited(350, "stop", 360)).log
    assert log[-1].text == "stops at step 360, the next exchange of the ranks"


def test_an_exchange_without_a_step_or_time_is_shown_as_nothing():
    nothing = exchanged(steps=0, sent_bytes=0, exchange_s=0.0, waited_s=0.0, training_s=0.0)
    assert exchange_text(nothing) == "0 B sent per step, 0.0% of the time, 0.0% of it hidden"


def test_the_settings_of_a_run_are_valid_in_the_fields_of_chat():
    settings = msgspec.structs.replace(
        preset("nano"), max_tokens=2_000_000, top_k=3_000_000, top_p=0.9999999, temperature=0.123456789
    )
    sampling, _, _ = parse_fields(initial_texts(settings))
    for name in ("max_tokens", "top_k", "top_p", "temperature"):
        assert getattr(sampling, name) == getattr(settings, name)


def test_the_length_of_a_run_names_all_of_its_limits():
    settings = msgspec.structs.replace(preset("nano"), minutes=30.0)
    assert length(settings) == "30 minutes, up to 20 epochs"
    assert length(msgspec.structs.replace(settings, max_epochs=NO_EPOCH_LIMIT)) == "30 minutes"
    assert length(msgspec.structs.replace(settings, minutes=0.0, max_steps=5)) == "up to 5 steps or 20 epochs"
