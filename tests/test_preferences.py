"""Preferences (theme and key bindings): files, validation, and output of `gpt-tui config`."""

import tomllib
from pathlib import Path

import pytest
from textual._keyboard_protocol import FUNCTIONAL_KEYS, MODIFIER_FUNCTIONAL_KEYS
from textual.keys import Keys
from textual.theme import BUILTIN_THEMES

from gpt_core.errors import ConfigError
from gpt_tui.app.preferences import (
    NO_PREFERENCES,
    THEMES,
    Preferences,
    as_toml,
    read_preferences,
    remember_guide,
    remember_theme,
    user_file,
)
from gpt_tui.cli import main as cli
from gpt_tui.shared.keymap import KEYS, is_key
from gpt_tui.shared.theme import OWN_THEMES


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Environment with an empty XDG_CONFIG_HOME."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "home")}


def write(path: Path, text: str) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_files_there_are_no_preferences(home):
    assert read_preferences(None, home) == NO_PREFERENCES


def test_the_user_file_is_in_xdg_config_home_or_in_home():
    assert user_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/gpt-tui/config.toml")
    assert user_file({"HOME": "/home/me"}) == Path("/home/me/.config/gpt-tui/config.toml")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'theme = "nord"\n'),
        ('# mine\ntheme = "monokai"  # dark\n[keys]\n"train.start" = "f7"\n',
         '# mine\ntheme = "nord"\n[keys]\n"train.start" = "f7"\n'),
        ('# theme = "monokai"\n\n[keys]\n"train.start" = "f7"\n',
         'theme = "nord"\n# theme = "monokai"\n\n[keys]\n"train.start" = "f7"\n'),
    ],
)  # fmt: skip
def test_a_remembered_theme_changes_its_line_only(home, before, after):
    path = write(user_file(home), before)
    remember_theme("nord", home)
    assert path.read_text(encoding="utf-8") == after
    assert read_preferences(None, home).theme == "nord"


def test_the_notes_that_were_shown_are_remembered_beside_the_theme(home):
    path = write(user_file(home), 'theme = "nord"\n[keys]\n"train.start" = "f7"\n')
    remember_guide("sample,first_loss", home)
    assert read_preferences(None, home) == Preferences("nord", {"train.start": "f7"}, "sample,first_loss")
    remember_guide("off", home)
    assert path.read_text() == 'guide = "off"\ntheme = "nord"\n[keys]\n"train.start" = "f7"\n'
    write(path, "guide = false\n")
    with pytest.raises(ConfigError, match='guide: got False, expected "off"'):
        read_preferences(None, home)


def test_the_line_breaks_of_the_file_stay_as_they_are(home):
    path = write(user_file(home), "")
    path.write_bytes(b'# mine\r\ntheme = "monokai"\r\n[keys]\r\n"train.start" = "f7"\r\n')
    remember_theme("nord", home)
    assert path.read_bytes() == b'# mine\r\ntheme = "nord"\r\n[keys]\r\n"train.start" = "f7"\r\n'


def test_a_theme_is_remembered_without_a_file_and_through_a_link(home, tmp_path):
    remember_theme("nord", home)
    path = user_file(home)
    assert read_preferences(None, home).theme == "nord"
    path.rename(tmp_path / "real.toml")
    path.symlink_to(tmp_path / "real.toml")
    remember_theme("monokai", home)
    assert path.is_symlink()
    assert "monokai" in (tmp_path / "real.toml").read_text()


def test_a_file_whose_theme_cannot_be_changed_is_left_as_it_is(home):
    path = write(user_file(home), "theme = \n[")
    with pytest.raises(ConfigError, match="not TOML"):
        remember_theme("nord", home)
    assert path.read_text() == "theme = \n["
    path.write_bytes(b'theme = "\xff"\n')
    with pytest.raises(ConfigError, match="bytes that are not UTF-8"):
        remember_theme("nord", home)
    write(path, '"theme" = "nord"\n')
    with pytest.raises(ConfigError, match="could not change its theme; set it there"):
        remember_theme("monokai", home)
    assert path.read_text() == '"theme" = "nord"\n'
    with pytest.raises(ConfigError, match="no home folder"):
        remember_theme("nord", {"HOME": ""})


def test_a_config_file_overrides_the_user_file_and_may_contain_settings(home, tmp_path):
    write(user_file(home), 'theme = "nord"\n[keys]\n"train.start" = "ctrl+s"\n"train.save" = "f12"\n')
    config = write(tmp_path / "run.toml", 'layers = 2\ntheme = "monokai"\n[keys]\n"train.start" = "f9, f10"\n')
    found = read_preferences(config, home)
    assert found == Preferences("monokai", {"train.start": "f9,f10", "train.save": "f12"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('theme = "nrod"', "theme: got 'nrod', expected one of {themes}; did you mean nord?"),
        ("theme = 3", "theme: got 3"),
        ('keys = "s"', "keys: got 's', expected a table"),
        ('[keys]\n"train.strat" = "f8"', "unknown key 'train.strat'; did you mean train.start?"),
        ('[keys]\n"train.start" = 5', "train.start: got 5, expected the name of a key"),
        ('[keys]\n"train.start" = "f6,"', "train.start: got 'f6,'"),
        ('[keys]\n"train.start" = "foo+bar"', "train.start: got 'foo+bar', expected the name of a key, such as"),
        ('[keys]\n"train.start" = "f9, pgup"', "got 'f9, pgup', expected the name of a key, such as \"ctrl+s\"; did"),
        ('[keys]\n"train.start" = "Ctrl+S"', "; did you mean ctrl+s?"),
        ('[keys]\n"train.start" = "p"', "'p' is both train.start and train.pause on one tab"),
        ('[keys]\n"tokens.close" = "left"', "'left' is both tokens.earlier and tokens.close on one tab"),
        ("layers = 3", "got layers, expected only theme, guide and [keys]"),
        ("theme =", "not TOML"),
    ],
)
def test_an_invalid_file_is_a_one_line_error_with_its_path(home, text, message):
    path = write(user_file(home), text)
    with pytest.raises(ConfigError) as caught:
        read_preferences(None, home)
    assert message.replace("{themes}", ", ".join(sorted(THEMES))) in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_may_be_bound_to_different_actions_on_different_tabs(home):
    write(user_file(home), '[keys]\n"chat.retry" = "w"\n')
    assert read_preferences(None, home).keys == {"chat.retry": "w"}


def test_the_printed_preferences_list_every_key_and_can_be_read_back(home):
    all_keys = as_toml(NO_PREFERENCES).replace('# "', '"')
    write(user_file(home), all_keys)
    assert read_preferences(None, home).keys == {key.id: key.keys for key in KEYS}


def test_config_prints_the_preferences_and_the_paths_of_their_file_and_of_the_error_log(
    home, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CONFIG_HOME", home["XDG_CONFIG_HOME"])
    monkeypatch.chdir(tmp_path)
    write(user_file(home), 'theme = "nord"\n[keys]\n"train.start" = "ctrl+s"\n')
    assert cli.main(["config", "--models-dir", "runs/a"]) == 0
    printed = capsys.readouterr().out
    assert str(user_file(home)) in printed
    assert "runs/a/gpt-tui.log" in printed
    table = tomllib.loads(printed)
    assert (table["theme"], table["keys"]) == ("nord", {"train.start": "ctrl+s"})
    printed_file = write(tmp_path / "printed_file.toml", printed)
    assert cli.main(["config", "--config", str(printed_file)]) == 0
    assert tomllib.loads(capsys.readouterr().out) == table


def test_the_themes_are_those_of_the_app_and_of_textual():
    assert list(THEMES) == [*(theme.name for theme in OWN_THEMES), *BUILTIN_THEMES]


def test_every_key_that_textual_reports_is_known_and_no_other():
    reported = {key.value for key in Keys if key.value[0] != "<"} - {"return", "ctrl-at"}
    reported |= {*FUNCTIONAL_KEYS.values()} - {*MODIFIER_FUNCTIONAL_KEYS, "caps_lock", "num_lock"}
    reported |= {name for key in KEYS for name in key.keys.split(",")}
    reported |= {"?", "+", "\u044f", "question_mark", "less_than_sign", "section_sign", "plus", "alt+shift+minus"}
    assert [name for name in sorted(reported) if not is_key(name)] == []
    others = ["", "foo", "foo+bar", "ctrl+", "+s", "ctrl+ctrl+s", "shift+ctrl+left", "F9", "plus_sign", "f36"]
    assert [name for name in others if is_key(name)] == []


@pytest.mark.parametrize("text", ['[keys]\n"foo.bar" = "x"\n', '[keys]\n"train.start" = "foo+bar"\n', 'theme = "no"\n'])
def test_config_lists_the_keys_although_the_preferences_are_not_valid(text, home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", home["XDG_CONFIG_HOME"])
    monkeypatch.chdir(tmp_path)
    path = write(user_file(home), text)
    assert cli.main(["config"]) == 2
    printed = capsys.readouterr()
    assert as_toml(NO_PREFERENCES) in printed.out
    assert printed.err.startswith(f"gpt-tui: {path}: ")
    assert printed.err.count("\n") == 1
