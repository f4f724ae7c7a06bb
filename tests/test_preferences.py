"""A user's own theme and keys: where they are read, what they may be, and what they do."""

import tomllib
from pathlib import Path

import pytest

from gpt_core.errors import ConfigError
from gpt_tui.app.preferences import NO_PREFERENCES, Preferences, as_toml, read_preferences, user_file
from gpt_tui.cli import main as cli
from gpt_tui.shared.keymap import KEYS

THEMES = ["gpt-night", "nord", "monokai"]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose folder for settings is empty."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "home")}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_any_file_nothing_is_preferred(home):
    assert read_preferences(None, THEMES, home) == NO_PREFERENCES


def test_the_users_file_is_in_his_own_folder():
    assert user_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/gpt-tui/config.toml")
    assert user_file({"HOME": "/home/me"}) == Path("/home/me/.config/gpt-tui/config.toml")


def test_a_config_file_has_the_last_word_and_may_hold_settings_too(home, tmp_path):
    write(user_file(home), 'theme = "nord"\n[keys]\n"train.start" = "ctrl+s"\n"train.save" = "f6"\n')
    config = write(tmp_path / "run.toml", 'layers = 2\ntheme = "monokai"\n[keys]\n"train.start" = "f7, f8"\n')
    found = read_preferences(config, THEMES, home)
    assert found == Preferences("monokai", {"train.start": "f7,f8", "train.save": "f6"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('theme = "nrod"', "theme: got 'nrod', expected one of gpt-night, monokai, nord; did you mean nord?"),
        ("theme = 3", "theme: got 3"),
        ('keys = "s"', "keys: got 's', expected a table"),
        ('[keys]\n"train.strat" = "f6"', "unknown key 'train.strat'; did you mean train.start?"),
        ('[keys]\n"train.start" = 5', "train.start: got 5, expected the name of a key"),
        ('[keys]\n"train.start" = "f6,"', "train.start: got 'f6,'"),
        ('[keys]\n"train.start" = "p"', "'p' is both train.start and train.pause on one tab"),
        ("layers = 3", "got layers, expected only theme and [keys]"),
        ("theme =", "not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_file(home, text, words):
    path = write(user_file(home), text)
    with pytest.raises(ConfigError) as caught:
        read_preferences(None, THEMES, home)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_key_may_do_other_things_on_other_tabs(home):
    write(user_file(home), '[keys]\n"chat.retry" = "w"\n')
    assert read_preferences(None, THEMES, home).keys == {"chat.retry": "w"}


def test_every_key_can_be_listed_and_read_back_as_it_is(home):
    everything = as_toml(NO_PREFERENCES).replace('# "', '"')
    write(user_file(home), everything)
    assert read_preferences(None, THEMES, home).keys == {key.id: key.keys for key in KEYS}


def test_config_prints_what_is_in_force_and_where_it_and_errors_are_kept(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", home["XDG_CONFIG_HOME"])
    monkeypatch.chdir(tmp_path)
    write(user_file(home), 'theme = "nord"\n[keys]\n"train.start" = "ctrl+s"\n')
    assert cli.main(["config", "--models-dir", "runs/a"]) == 0
    printed = capsys.readouterr().out
    assert str(user_file(home)) in printed
    assert "runs/a/gpt-tui.log" in printed
    table = tomllib.loads(printed)
    assert (table["theme"], table["keys"]) == ("nord", {"train.start": "ctrl+s"})
    again = write(tmp_path / "again.toml", printed)
    assert cli.main(["config", "--config", str(again)]) == 0
    assert tomllib.loads(capsys.readouterr().out) == table
