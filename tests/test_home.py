"""Users without a home folder (unknown user id and no HOME, as with Docker's `--user`) or with an unreadable one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpt_core
from gpt_core.errors import ConfigError, CorpusError
from gpt_core.home import cache_folder, expand_home, home_folder
from gpt_core.text.cache_files import cache_folders
from gpt_core.text.source import text_source
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens
from gpt_tui.app.preferences import NO_PREFERENCES, read_preferences, user_file
from tests.program import TIMEOUT_S, Terminal, environment, run_program, tiny, write_texts

NAMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
LATEST = "models/ckpt_latest.safetensors"
# simulates a user id that is missing from the user database; changing the real one needs root
UNKNOWN_USER = """
import pwd, runpy

def unknown_user(uid):
    raise KeyError(uid)

pwd.getpwuid = unknown_user
runpy.run_module("gpt_tui", run_name="__main__")
"""


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the home folder and the XDG folders of this process."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a training text and an evaluation text."""
    write_texts(tmp_path)
    return tmp_path


def run_homeless(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the program to completion as a user without a home folder."""
    variables = {name: value for name, value in environment().items() if name not in NAMES}
    return subprocess.run(
        [sys.executable, "-c", UNKNOWN_USER, *arguments], cwd=cwd, env=variables, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip


posix_only = pytest.mark.skipif(os.name != "posix", reason="on Windows every user has a profile folder")


@pytest.mark.slow
@posix_only
def test_every_command_works_without_a_home_folder(folder: Path) -> None:
    commands = (
        ("--train-only", "--max-steps", "2", *tiny()), ("config",), ("evaluate",), ("verify", LATEST),
        ("tokenize", "data/raw/train.en", *tiny()), ("generate", "The", "--max-tokens", "3"),
        ("--train-only", "--resume", "--max-steps", "3"),
    )  # fmt: skip
    for command in commands:
        done = run_homeless(*command, cwd=folder)
        assert done.returncode == 0, (command, done.stderr)
        assert "Traceback" not in done.stderr
    assert not (folder / "~").exists()


@posix_only
def test_config_reports_a_missing_home_folder_and_the_variable_to_set(folder: Path) -> None:
    assert "no home folder; set XDG_CONFIG_HOME" in run_homeless("config", cwd=folder).stdout


def test_an_unreadable_home_folder_gives_default_preferences(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: object, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", forbidden)
        assert read_preferences(None, environ={"HOME": "/home/other"}) == NO_PREFERENCES


@posix_only
@pytest.mark.slow
def test_the_app_starts_and_quits_without_a_home_folder(folder: Path) -> None:
    # the test run sets XDG_CONFIG_HOME; an empty value counts as unset
    app = Terminal(*tiny(), cwd=folder, HOME="", XDG_CACHE_HOME="", XDG_CONFIG_HOME="")
    app.read_until("Train")
    app.read_for(1)
    app.type("q")
    assert app.end() == 0


@pytest.mark.parametrize("name", ["", "relative/home"])
def test_an_empty_or_relative_home_is_ignored(name: str) -> None:
    assert home_folder({"HOME": name}) is None
    assert cache_folder({"HOME": name, "XDG_CACHE_HOME": "relative"}) is None


def test_home_and_xdg_cache_home_are_used(tmp_path: Path) -> None:
    assert home_folder({"HOME": str(tmp_path)}) == tmp_path
    assert cache_folder({"HOME": str(tmp_path)}) == tmp_path / ".cache/gpt-tui"
    assert cache_folder({"HOME": "/x", "XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "gpt-tui"


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_caches_are_written_only_beside_the_text(tmp_path: Path) -> None:
    assert cache_folders(tmp_path / "train.en") == [tmp_path]
    inside = Path(gpt_core.__file__).parent / "data" / "raw" / "train.en"
    assert cache_folders(inside) == []


@pytest.mark.usefixtures("homeless")
def test_without_any_cache_folder_the_error_names_the_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "train.en"
    text.write_text("A line of text.\n\n" * 50)
    monkeypatch.setattr("gpt_core.text.token_cache.cache_folders", lambda *_: [])
    tokenizer = load_or_train_tokenizer(text_source(text), 300)
    with pytest.raises(CorpusError, match=r"no home folder for it.*XDG_CACHE_HOME"):
        load_tokens(text_source(text), tokenizer, "paragraph")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_preferences_come_only_from_a_config_file(tmp_path: Path) -> None:
    assert user_file({}) is None
    assert read_preferences(None, environ={}) == NO_PREFERENCES
    config = tmp_path / "run.toml"
    config.write_text('theme = "nord"\n')
    assert read_preferences(config, environ={}).theme == "nord"
    assert user_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/gpt-tui/config.toml")


@pytest.mark.parametrize("name", ["~/run.toml", "~no-such-user-here/run.toml"])
@pytest.mark.usefixtures("homeless")
def test_a_tilde_without_a_home_folder_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "expanduser", lambda _: no_home())
    with pytest.raises(ConfigError, match=r"unknown home folder; write ./ before a ~"):
        expand_home(name)


def test_a_path_without_a_tilde_is_unchanged() -> None:
    assert expand_home("runs/a.toml") == Path("runs/a.toml")


@posix_only
@pytest.mark.slow
def test_every_path_on_the_command_line_may_begin_with_a_tilde(folder: Path) -> None:
    trained = run_program("train", *tiny("max_steps=2"), "--models-dir=~/m", cwd=folder, HOME=str(folder / "home"))
    assert trained.returncode == 0, trained.stderr
    (folder / "home" / "run.toml").write_text("max_steps = 3\n")
    (folder / "home" / "t.txt").write_text("A cat.\n\n" * 50)
    checkpoint = "~/m/ckpt_latest.safetensors"
    for command in (
        ("generate", "The", "--models-dir=~/m", "--max-tokens", "2"), ("verify", checkpoint),
        ("config", "--config=~/run.toml"), ("generate", "The", f"--model={checkpoint}", "--max-tokens", "2"),
        ("tokenize", "~/t.txt", f"--model={checkpoint}"),
        ("evaluate", "--models-dir=~/m", "--eval-file=~/t.txt"),
        ("inspect", "The", f"--model={checkpoint}", "--html=~/page.html"),
        ("train", f"--resume={checkpoint}", "--config=~/run.toml"),
    ):  # fmt: skip
        done = run_program(*command, cwd=folder, HOME=str(folder / "home"))
        assert done.returncode == 0, (command, done.stderr)
    assert not (folder / "~").exists()
    unknown = "~unknown-user/file"
    for command in (
        ("generate", "The", f"--model={unknown}"), ("generate", f"--prompt-file={unknown}"), ("tokenize", unknown),
        ("watch", unknown), ("inspect", "The", f"--html={unknown}"),
    ):  # fmt: skip
        done = run_program(*command, cwd=folder)
        assert done.returncode == 2
        assert "unknown home folder" in done.stderr
        assert "--prompt-file: " in done.stderr or not command[-1].startswith("--prompt-file")
        assert done.stderr.count("\n") == 1
    several = run_program("verify", unknown, checkpoint, cwd=folder, HOME=str(folder / "home"))
    assert (several.returncode, several.stderr) == (2, "")
    refused, valid = several.stdout.splitlines()
    assert "unknown home folder" in refused
    assert "OK, latest" in valid
