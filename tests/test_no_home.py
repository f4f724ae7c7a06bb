"""A user without a home folder: an unknown user id and no HOME, as with Docker's `--user`; or a home of others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpt_core
from gpt_core.errors import ConfigError, CorpusError
from gpt_core.home import cache_home, expand_home, home_folder
from gpt_core.text.cache_files import cache_folders
from gpt_core.text.token_cache import load_or_train_tokenizer, load_tokens
from gpt_tui.app.preferences import NO_PREFERENCES, read_preferences, user_file
from tests.program import TIMEOUT_S, Terminal, environment, tiny, write_texts

NAMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
LATEST = "models/ckpt_latest.safetensors"
# a user id that the list of users lacks, without the right to change this process's own
NOT_LISTED = """
import pwd, runpy

def not_listed(user):
    raise KeyError(user)

pwd.getpwuid = not_listed
runpy.run_module("gpt_tui", run_name="__main__")
"""


def refused() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has neither a home folder nor folders of its own for caches and settings."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", refused)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with texts."""
    write_texts(tmp_path)
    return tmp_path


def run_homeless(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in environment().items() if name not in NAMES}
    return subprocess.run(
        [sys.executable, "-c", NOT_LISTED, *arguments], cwd=cwd, env=kept, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip


posix_only = pytest.mark.skipif(os.name != "posix", reason="a user always has a profile folder there")


@posix_only
def test_every_command_does_without_a_home_folder(folder: Path) -> None:
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
def test_config_says_that_there_is_no_home_folder_and_what_to_set(folder: Path) -> None:
    assert "no home folder; set XDG_CONFIG_HOME" in run_homeless("config", cwd=folder).stdout


def test_a_home_folder_that_may_not_be_read_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: object, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", forbidden)
        assert read_preferences(None, environ={"HOME": "/home/of-another"}) == NO_PREFERENCES


@posix_only
def test_the_app_starts_and_ends_without_a_home_folder(folder: Path) -> None:
    # the settings of the test run name a folder; the empty name is none
    app = Terminal(*tiny(), cwd=folder, HOME="", XDG_CACHE_HOME="", XDG_CONFIG_HOME="")
    app.read_until("Train")
    app.read_for(1)
    app.type("q")
    assert app.end() == 0


@pytest.mark.parametrize("name", ["", "relative/home"])
def test_a_home_that_is_no_absolute_path_is_none(name: str) -> None:
    assert home_folder({"HOME": name}) is None
    assert cache_home({"HOME": name, "XDG_CACHE_HOME": "relative"}) is None


def test_a_home_and_a_cache_folder_that_are_named_are_taken(tmp_path: Path) -> None:
    assert home_folder({"HOME": str(tmp_path)}) == tmp_path
    assert cache_home({"HOME": str(tmp_path)}) == tmp_path / ".cache"
    assert cache_home({"HOME": "/x", "XDG_CACHE_HOME": str(tmp_path)}) == tmp_path


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_caches_are_kept_beside_the_text_alone(tmp_path: Path) -> None:
    assert cache_folders(tmp_path / "train.en") == [tmp_path]
    inside = Path(gpt_core.__file__).parent / "data" / "raw" / "train.en"
    assert cache_folders(inside) == []


@pytest.mark.usefixtures("homeless")
def test_where_no_cache_can_be_kept_the_error_says_so_and_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "train.en"
    text.write_text("A line of text.\n\n" * 50)
    monkeypatch.setattr("gpt_core.text.token_cache.cache_folders", lambda *_: [])
    tokenizer = load_or_train_tokenizer(text, 300)
    with pytest.raises(CorpusError, match=r"no home folder for it.*XDG_CACHE_HOME"):
        load_tokens(text, tokenizer, "paragraph")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_there_are_no_preferences_but_those_of_a_config_file(tmp_path: Path) -> None:
    assert user_file({}) is None
    assert read_preferences(None, environ={}) == NO_PREFERENCES
    config = tmp_path / "run.toml"
    config.write_text('theme = "nord"\n')
    assert read_preferences(config, environ={}).theme == "nord"
    assert user_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/gpt-tui/config.toml")


@pytest.mark.parametrize("name", ["~/run.toml", "~no-such-user-here/run.toml"])
@pytest.mark.usefixtures("homeless")
def test_a_tilde_that_means_no_folder_is_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "expanduser", lambda _: refused())
    with pytest.raises(ConfigError, match=r"unknown home folder; write ./ before a ~"):
        expand_home(name)


def test_a_name_without_a_tilde_is_taken_as_it_is() -> None:
    assert expand_home("runs/a.toml") == Path("runs/a.toml")
