"""The next run: what was configured starts, defaults can be restored, and the newest run is offered to resume."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.presets import preset
from gpt_core.config.settings import GROUP_RATES
from gpt_core.run_files import METRICS
from gpt_core.training.request import RunRequest
from gpt_tui.new_run.fields import validate, with_preset
from gpt_tui.new_run.files import path_problem
from gpt_tui.new_run.form_state import FormState, SetupResult
from gpt_tui.session.phase import Phase
from gpt_tui.session.run_preview import RunPreview, newest_run, read_preview, stored_checkpoints
from gpt_tui.tabs.train.next_run import NextRun
from gpt_tui.tabs.train.presenter import allowed, labeled_actions, preview_rows
from gpt_tui.tabs.train.resume_dialog import ResumeScreen
from tests.core.checkpoint_samples import SETTINGS, sample
from tests.tui.app_bench import AppBench, running_app
from tests.tui.fake_probes import fake_probes
from tests.tui.samples import trained
from tests.tui.test_app_setup import type_in


def typed(run: NextRun, **texts: str) -> FormState:
    return FormState(run.form_state.preset_name, run.form_state.texts | texts)


def left(state: FormState) -> SetupResult:
    """Return the result of a set-up screen that was left in this state without a start."""
    return SetupResult(state, validate(state.texts, path_problem))


def test_what_was_typed_in_the_set_up_screen_is_the_next_run_also_without_a_start():
    run = NextRun(preset("nano"), "nano")
    state = typed(run, layers="6", seed="5")
    assert run.configure(left(state)) == ""
    assert (run.settings.layers, run.settings.seed, run.preset_name) == (6, 5, "")
    assert run.form_state == state
    assert run.changes == {"layers": "6", "seed": "5"}


def test_an_invalid_form_changes_nothing_but_is_kept():
    run = NextRun(preset("nano"), "nano")
    state = typed(run, layers="many")
    assert run.configure(left(state)).startswith("layers: ")
    assert run.settings == preset("nano")
    assert run.form_state == state


def test_the_defaults_are_the_settings_of_the_start_of_the_program():
    settings = msgspec.structs.replace(preset("nano"), layers=3)
    run = NextRun(settings, "")
    run.configure(left(typed(run, layers="6")))
    run.reset()
    assert (run.settings, run.preset_name, run.changes) == (settings, "", {})
    assert run.form_state.texts["layers"] == "3"


def test_the_reason_of_a_time_budget_goes_with_its_settings():
    run = NextRun(preset("nano"), "nano")
    reason = "because 5 minutes train it"
    run.configure(left(replace(typed(run, layers="6"), model_reason=reason)))
    assert run.model_reason == reason
    run.reset()
    assert run.model_reason == ""
    run.follow_budget(RunRequest(preset("nano"), "nano", model_reason=reason))
    run.configure(left(typed(run, layers="6")))
    run.reset()
    assert run.model_reason == reason


def test_changes_are_named_from_the_chosen_preset_and_rates_as_one():
    run = NextRun(preset("nano"), "nano")
    texts = with_preset(run.form_state.texts, "micro") | dict.fromkeys(GROUP_RATES, "0.002")
    run.configure(left(FormState("micro", texts | {"learning_rate": "0.002"})))
    assert run.changes == {"preset": "micro", "learning_rate": "0.002"}


def test_another_folder_is_also_typed_in_the_form():
    run = NextRun(preset("nano"), "nano")
    run.configure(left(typed(run, layers="6")))
    run.use_folder(Path("models-2"))
    assert run.settings.models_dir == run.form_state.texts["models_dir"] == "models-2"
    assert run.settings.layers == 6


def save_run(folder: Path, *, step: int = 100, **changes: object) -> None:
    settings = msgspec.structs.replace(SETTINGS, **changes)
    with CheckpointStore(folder) as store:
        store.prepare(folder.name, new_run=True)
        path = store.save("latest", sample(settings, step=step, run_id=folder.name))
    (folder / METRICS).touch()
    assert path.exists()


def test_the_newest_run_below_the_folder_is_offered_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    save_run(Path("models"))
    save_run(Path("models-2"))
    save_run(Path("models-2/overfit"), overfit_tiny=True)
    settings = preset("nano")
    preview = read_preview(settings, "nano")
    assert preview.stored.resumable is not None
    assert preview.stored.resumable.path == Path("models-2/ckpt_latest.safetensors")
    can = allowed(Phase.IDLE, can_resume=True)
    labels = dict(labeled_actions(preview._replace(problem="", train_file="a.txt"), can, 0.0))
    assert labels["resume"].startswith("Resume models-2 (step 100, saved ")
    named = read_preview(msgspec.structs.replace(settings, models_dir="models"), "nano", session_dir="models")
    assert named.stored.resumable is not None
    assert named.stored.resumable.path.parent == Path("models")


def test_a_run_of_a_race_is_not_offered_but_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    of_race = "race/dropout=0.1,seed=0"
    save_run(Path("models"))
    save_run(Path(of_race))
    Path("race/race.json").write_text("{}")
    found = read_preview(preset("nano"), "nano").stored.resumable
    assert found is not None
    assert found.path.parent == Path("models")
    named = read_preview(msgspec.structs.replace(preset("nano"), models_dir=of_race), "nano").stored.resumable
    assert named is not None
    assert named.path.parent == Path(of_race)


@pytest.mark.parametrize("session_dir", ["", "models"])
def test_a_run_that_another_process_trains_is_not_offered_after_a_start_that_it_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session_dir: str
):
    monkeypatch.chdir(tmp_path)
    save_run(Path("models-2"))
    save_run(Path("models"))
    with CheckpointStore("models") as store:
        store.prepare("models", new_run=False)  # holds the lock
        refused = read_preview(preset("nano"), "nano", session_dir)
    assert refused.stored.resumable is not None
    assert refused.stored.resumable.path.parent == Path("models-2")


def test_a_named_folder_comes_before_the_runs_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    save_run(Path("a"))
    save_run(Path("b"))
    own = stored_checkpoints("a").resumable
    assert newest_run("a", own, Path()) == own
    found = newest_run("new", None, Path())
    assert found is not None
    assert found.path.parent == Path("b")
    assert newest_run("new", None, tmp_path / "nowhere") is None


def test_the_preview_says_that_the_held_out_end_of_a_long_text_is_limited():
    def eval_text(train_bytes: int, eval_file: str = "") -> str:
        preview = RunPreview(preset("nano"), "", "my.txt", train_bytes, eval_file=eval_file)
        return dict(preview_rows(preview, {}))["eval text"]

    assert eval_text(10**7) == "about the last 10.0% of the text"
    assert eval_text(10**10) == "about the last 10.0% of the text, at most 2,000,000 tokens"
    assert eval_text(10**10, eval_file="other.txt") == "other.txt"


def test_the_home_screen_names_the_changes_and_the_way_back():
    preview = RunPreview(preset("nano"), "", "data/raw/train.en")
    rows = dict(preview_rows(preview, {"layers": "6", "seed": "5"}))
    assert rows["changed"] == "layers 6, seed 5"
    assert "changed" not in dict(preview_rows(preview, {}))
    for is_changed in (True, False):
        can = allowed(Phase.IDLE, can_resume=False, is_changed=is_changed)
        assert ("defaults" in dict(labeled_actions(preview, can, 0.0))) == is_changed


async def configure(bench: AppBench) -> None:
    await bench.until_seen("Change model, text or learning rate")
    await bench.pilot.press("u")
    await bench.until_set_up()
    await type_in(bench, "layers", "6")
    await bench.pilot.press("escape")
    await bench.until_seen("layers 6")


@pytest.mark.slow
async def test_the_start_key_starts_what_was_configured(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await configure(bench)
        await bench.pilot.press("s")
        await bench.until_step(1)
        assert bench.opener.requests[0].settings.layers == 6


@pytest.mark.slow
async def test_the_defaults_key_restores_the_settings(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        await configure(bench)
        await bench.pilot.press("d")
        await bench.until(lambda: "layers 6" not in bench.text())
        await bench.pilot.press("s")
        await bench.until_step(1)
        assert bench.opener.requests[0].settings.layers == preset("nano").layers


@pytest.mark.slow
async def test_a_batch_too_small_for_the_ranks_is_not_taken_from_the_form(tmp_path: Path):
    async with running_app(tmp_path, probes=fake_probes(hosts=("a", "b"))) as bench:
        await bench.until_seen("Change model, text or learning rate")
        before = bench.app.main.train.settings
        await bench.pilot.press("u")
        await bench.until_set_up()
        await type_in(bench, "batch_size", "1")
        await bench.pilot.press("escape")
        await bench.until(lambda: bool(bench.app._notifications))
        (notice,) = bench.app._notifications
        assert notice.message.startswith("settings not changed: batch_size: 2 ranks need as many micro-batches")
        assert bench.app.main.train.settings == before


@pytest.mark.slow
async def test_the_resume_key_resumes_the_run_that_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_run(tmp_path / "models" / "old")
    monkeypatch.chdir(tmp_path)
    async with running_app(tmp_path / "models") as bench:
        await bench.until_seen("Resume models/old (step 100")
        await bench.pilot.press("r")
        await bench.until_step(101)
        request = bench.opener.requests[0]
        assert request.resume == "newest"
        assert Path(request.settings.models_dir).absolute() == tmp_path / "models" / "old"


@pytest.mark.slow
async def test_the_limits_of_a_finished_run_are_asked_for_at_once(tmp_path: Path):
    save_run(tmp_path, max_steps=100)
    info = stored_checkpoints(str(tmp_path)).resumable
    assert info is not None
    async with running_app(tmp_path) as bench:
        bench.app.main.train.resume_from(info.path, info)
        assert isinstance(bench.app.screen, ResumeScreen)  # the next key is one of the dialog
        await bench.pilot.press("escape")
        assert not bench.opener.requests


@pytest.mark.slow
async def test_a_warning_is_shown_however_fast_the_run_opened(tmp_path: Path):
    async with running_app(tmp_path) as bench:
        controller, main = bench.app.controller, bench.app.main
        controller.warning, controller.run = "models: 5 MB free, free some disk space", trained(3)
        main.show()  # no frame has shown the opening
        assert main.banner.text == "models: 5 MB free, free some disk space"
        assert not main.banner.has_class("-bad")  # the sign of a failure, and the run goes well
        main.banner.say("")
        main.show()
        assert not main.banner.text


@pytest.mark.slow
async def test_the_header_names_the_configured_model(tmp_path: Path):
    async with running_app(tmp_path, size=(120, 40)) as bench:
        await bench.until_seen("nano · 1.19M parameters")
        await configure(bench)
        await bench.until_seen("custom · 1.59M parameters")
        assert "nano · 1.19M" not in bench.text()
