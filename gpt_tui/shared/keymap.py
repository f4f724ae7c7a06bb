"""Key table: bindings, footer, buttons, command palette and help derive from it.

`App.set_keymap` assigns other keys by id.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

Place = Literal["train", "charts", "samples", "chat", "checkpoints", "runs", "inside", "setup", "tokens", "everywhere"]

PLACE_TITLES: dict[Place, str] = {
    "train": "Training (Train tab)",
    "charts": "Charts",
    "samples": "Samples and log",
    "chat": "Chat tab",
    "checkpoints": "Checkpoints tab",
    "runs": "Runs tab",
    "inside": "Inside tab",
    "setup": "Set up",
    "tokens": "Surprise",
    "everywhere": "Everywhere",
}


class TabInfo(NamedTuple):
    """Tab of the main screen: its title, and the places of the key table that it includes."""

    title: str
    places: tuple[Place, ...]


TABS: dict[str, TabInfo] = {
    "train": TabInfo("Train", ("train", "samples", "charts")),
    "chat": TabInfo("Chat", ("chat",)),
    "checkpoints": TabInfo("Checkpoints", ("checkpoints",)),
    "runs": TabInfo("Runs", ("runs", "charts")),
    "inside": TabInfo("Inside", ("inside",)),
}


SCREENS: dict[str, tuple[Place, ...]] = {"setup": ("setup",), "tokens": ("tokens",)}
"""Screens over the main screen, and the places that they include."""


class Key(NamedTuple):
    """Action with its keys.

    Attributes:
        id: Id in the keymap, by which preferences change keys.
        keys: Textual's names of the keys; the first one is shown.
        action: Textual action.
        label: Name in the footer, on the button and in the palette.
        help: Description in the help.
        place: Part of the app where the key works.
        footer: True to show it in the footer.
        button: True for a button.
        priority: True to handle it before the keys of the focused widget.
        display: Displayed name of the first key, where it differs.
    """

    id: str
    keys: str
    action: str
    label: str
    help: str
    place: Place
    footer: bool = False
    button: bool = False
    priority: bool = False
    display: str | None = None


KEYS: tuple[Key, ...] = (
    Key("train.start", "s", "start", "Start", "Start a new run", "train", button=True),
    Key("train.setup", "u", "setup", "Set up", "Change model, text or learning rate", "train", button=True),
    Key("train.budget", "f", "next_budget", "Time", "Choose how long to train: 1, 5, 30 or 480 minutes", "train"),
    Key("train.pause", "p,space", "pause", "Pause", "Pause after this step, or continue", "train", button=True),
    Key("train.step", "n", "step", "Step", "Take one step, then pause", "train", button=True),
    Key("train.save", "w", "save", "Save", "Save a checkpoint", "train", button=True),
    Key("train.resume", "r", "resume", "Resume", "Resume from the newest checkpoint", "train", button=True),
    Key("train.overfit", "o", "overfit", "Self-test", "Self-test: memorize a few lines", "train", button=True),
    Key("train.stop", "x", "stop", "Stop", "Stop after this step and save a checkpoint", "train", button=True),
    Key("train.evaluate", "e", "evaluate", "Evaluate", "Evaluate now; in a self-test, check the lines", "train"),
    Key("train.defaults", "d", "defaults", "Defaults", "Go back to the settings that gpt-tui started with", "train"),
    Key("train.now", "enter", "start_now", "Start now", "Start the first run without the countdown", "train"),
    Key("samples.switch", "v", "switch_notes", "Panels", "Show samples, log, or samples only", "samples",
        footer=True),
    Key("samples.status", "i", "toggle_status", "Status", "Show or hide the status panel", "samples", footer=True),
    Key("samples.earlier", "up", "samples(-1)", "Previous sample", "Scroll to the previous sample", "samples"),
    Key("samples.later", "down", "samples(1)", "Next sample", "Scroll to the next sample", "samples"),
    Key("samples.page_earlier", "pageup", "samples_page(-1)", "Samples: page up", "Scroll up by a page", "samples"),
    Key("samples.page_later", "pagedown", "samples_page(1)", "Samples: page down", "Scroll down by a page", "samples"),
    Key("samples.first", "home", "samples_end(True)", "First sample", "Scroll to the first sample", "samples"),
    Key("samples.last", "end", "samples_end(False)", "Newest sample", "Scroll to the newest sample and follow",
        "samples"),
    Key("samples.close_note", "z", "close_note", "Close note", "Close the note below the charts", "samples"),
    Key("samples.guide", "j", "switch_guide", "Notes",
        "Switch the notes that explain a first run off for good, or on again", "samples"),
    Key("samples.surprise", "f8", "show_surprise", "Surprise",
        "Color the sample by surprise, and continue it from another token", "samples", footer=True),
    Key("chat.stop", "escape", "stop_reply", "Stop", "Stop the reply, or leave the field", "chat", footer=True),
    Key("chat.newline", "alt+enter,shift+enter,ctrl+j", "new_line", "New line", "Insert a line break into the prompt",
        "chat"),
    Key("chat.retry", "ctrl+r", "retry", "Retry", "Generate again from the last prompt", "chat", footer=True),
    Key("chat.seed", "ctrl+s", "keep_seed", "Keep seed", "Use the last reply's seed for the next replies",
        "chat"),
    Key("chat.copy", "ctrl+y", "copy_reply", "Copy", "Copy the last reply; of two, each in turn", "chat", footer=True),
    Key("chat.clear", "ctrl+l", "clear_chat", "Clear", "Clear the conversation", "chat"),
    Key("chat.fields", "f7", "switch_side", "Settings", "Move between the prompt and the settings", "chat",
        footer=True),
    Key("chat.surprise", "f8", "show_surprise", "Surprise",
        "Color the last reply by surprise, and continue it from another token", "chat", footer=True),
    Key("chat.earlier", "up", "move(-1)", "Earlier prompt", "Previous prompt; in the settings, previous field", "chat"),
    Key("chat.later", "down", "move(1)", "Later prompt", "Next prompt; in the settings, next field", "chat"),
    Key("chat.page_up", "pageup", "page(-1)", "Page up", "Scroll the conversation up", "chat"),
    Key("chat.page_down", "pagedown", "page(1)", "Page down", "Scroll the conversation down", "chat"),
    Key("checkpoints.resume", "r,enter", "resume_from", "Resume", "Resume training from this checkpoint", "checkpoints",
        footer=True),
    Key("checkpoints.chat", "c", "chat_with", "Chat", "Chat with this checkpoint", "checkpoints", footer=True),
    Key("checkpoints.fine_tune", "f", "fine_tune", "Fine-tune", "Set up a new run that starts from these weights",
        "checkpoints", footer=True),
    Key("checkpoints.export", "e", "export", "Export", "Export this checkpoint for other programs", "checkpoints",
        footer=True),
    Key("checkpoints.beside", "b", "compare_in_chat", "Compare", "Compare this checkpoint with the chat's model",
        "checkpoints", footer=True),
    Key("checkpoints.delete", "d,delete", "delete", "Delete", "Delete this checkpoint; asks first", "checkpoints",
        footer=True),
    Key("checkpoints.verify", "v", "verify", "Verify", "Verify the checksums of this checkpoint", "checkpoints",
        footer=True),
    Key("runs.mark", "space", "mark", "Mark", "Mark this run to compare it, or unmark it", "runs", footer=True),
    Key("runs.unmark", "u", "unmark", "Unmark", "Unmark all runs", "runs", footer=True),
    Key("runs.duplicate", "d", "duplicate", "Duplicate", "Set up a run like this one, with changes", "runs",
        footer=True),
    Key("runs.inside", "i", "look_inside", "Look inside", "Show the heads of this run over time in the Inside tab",
        "runs"),
    Key("runs.notes", "v", "switch_panels", "Panels", "Show samples, log, or neither", "runs", footer=True),
    Key("runs.surprise", "f8", "show_surprise", "Surprise",
        "Color the sample by surprise, and continue it from another token", "runs", footer=True),
    Key("charts.log", "l", "log_scale", "Log", "Switch between logarithmic and linear y axis", "charts",
        footer=True),
    Key("charts.axis", "a", "next_axis", "Axis", "Switch the x axis: steps, tokens, time", "charts", footer=True),
    Key("charts.metric", "m", "next_metric", "Metric", "Choose the metric of the second chart, or of a comparison",
        "charts", footer=True),
    Key("charts.export", "ctrl+e", "export", "Export",
        "Export charts (SVG, CSV, PNG if possible) and samples (Markdown) into the run's folder", "charts"),
    Key("charts.range", "y", "next_y_range", "y range", "Switch the y range: auto, full, tight", "charts"),
    Key("charts.baselines", "b", "toggle_baselines", "Baselines",
        "Show or hide the losses of guessing, of token frequencies and of compressors", "charts"),
    Key("charts.cursor_left", "comma,shift+left", "cursor(-1)", "Cursor", "Move the cursor left", "charts",
        footer=True, display=","),
    Key("charts.cursor_right", "full_stop,shift+right", "cursor(1)", "Cursor right", "Move the cursor right", "charts",
        display="."),
    Key("charts.cursor_off", "escape", "cursor_off", "Cursor off", "Remove the cursor", "charts"),
    Key("charts.zoom_in", "plus,equals_sign", "zoom(0.5)", "Zoom in", "Zoom in", "charts", display="+"),
    Key("charts.zoom_out", "minus", "zoom(2.0)", "Zoom out", "Zoom out", "charts", display="-"),
    Key("charts.whole", "0", "zoom_reset", "Full run", "Show the full run", "charts"),
    Key("charts.left", "left", "pan(-0.25)", "Pan left", "Pan left", "charts"),
    Key("charts.right", "right", "pan(0.25)", "Pan right", "Pan right", "charts"),
    Key("inside.tokens", "1", "view('tokens')", "View: Tokens", "Tokens: surprise, and what the model expected",
        "inside"),
    Key("inside.lens", "2", "view('lens')", "View: Lens", "Lens: the prediction after each part", "inside"),
    Key("inside.attention", "3", "view('attention')", "View: Attention", "Attention: where each head looks", "inside"),
    Key("inside.heads", "4", "view('heads')", "View: Heads", "Heads: scores of the attention heads at each evaluation",
        "inside"),
    Key("inside.health", "5", "view('health')", "View: Health", "Health: norms, gradients, updates and dead units",
        "inside"),
    Key("inside.ablation", "6", "view('ablation')", "View: Knock-out", "Knock-out: the loss without each part",
        "inside"),
    Key("inside.neighbors", "7", "view('neighbors')", "View: Neighbors", "Neighbors: nearest tokens, and a map",
        "inside"),
    Key("inside.remove", "x", "act('remove')", "Remove", "Leave the part at the cursor out in Chat, or put it back",
        "inside", footer=True),
    Key("inside.next_view", "n,right_square_bracket", "step_view(1)", "View", "Show the next view", "inside",
        footer=True),
    Key("inside.previous_view", "p,left_square_bracket", "step_view(-1)", "Previous view", "Show the previous view",
        "inside"),
    Key("inside.text", "s", "open('text')", "Text", "Choose the text: probe, sample, reply, or typed", "inside",
        footer=True),
    Key("inside.type", "e", "type_text", "Type a text", "Type a text to look at", "inside"),
    Key("inside.model", "m", "open('model')", "Model", "Choose the model", "inside", footer=True),
    Key("inside.compare", "b", "open('compare')", "Compare", "Choose a model to compare with", "inside",
        footer=True),
    Key("inside.refresh", "r", "refresh", "Refresh", "Take the weights again, and compute", "inside", footer=True),
    Key("inside.enter", "enter", "act('enter')", "Choose", "Choose from a list; in Tokens, generate from a token",
        "inside", footer=True),
    Key("inside.back", "escape", "back", "Leave list", "Leave a list or a selector", "inside"),
    Key("inside.left", "left", "move('left')", "Token left", "Previous token", "inside"),
    Key("inside.right", "right", "move('right')", "Token right", "Next token", "inside"),
    Key("inside.up", "up", "move('up')", "Inside: up", "Line, row or layer above", "inside"),
    Key("inside.down", "down", "move('down')", "Inside: down", "Line, row or layer below", "inside"),
    Key("inside.first", "home", "move('home')", "First token", "First token", "inside"),
    Key("inside.last", "end", "move('end')", "Last token", "Last token", "inside"),
    Key("inside.page_left", "pageup", "move('page_up')", "Inside: page up", "Ten tokens back", "inside"),
    Key("inside.page_right", "pagedown", "move('page_down')", "Inside: page down", "Ten tokens on", "inside"),
    Key("inside.previous_head", "comma", "move('previous_head')", "Previous head", "Previous head", "inside",
        display=","),
    Key("inside.next_head", "full_stop", "move('next_head')", "Next head", "Next head", "inside", display="."),
    Key("setup.begin", "ctrl+t,f9", "begin_run", "Start", "Start training with these settings", "setup", button=True),
    Key("setup.choose", "f8", "choose_model", "Fit to time", "Choose model and schedule for the time in minutes",
        "setup"),
    Key("setup.save", "ctrl+s", "save_config", "Save as file", "Save as a config file", "setup", button=True),
    Key("setup.back", "escape", "leave_setup", "Back", "Go back; the form keeps its values", "setup", button=True),
    Key("setup.next", "down", "next_field", "Next field", "Go to the next field (also tab)", "setup"),
    Key("setup.previous", "up", "previous_field", "Previous field", "Go to the previous field (also shift+tab)",
        "setup"),
    Key("tokens.earlier", "left", "token(-1)", "Token", "Go to the previous token", "tokens", footer=True),
    Key("tokens.later", "right", "token(1)", "Next token", "Go to the next token", "tokens"),
    Key("tokens.up", "pageup,shift+up", "line(-1)", "Line up", "Go to the line above", "tokens"),
    Key("tokens.down", "pagedown,shift+down", "line(1)", "Line down", "Go to the line below", "tokens"),
    Key("tokens.first", "home", "token(-1000000)", "First token", "Go to the first token", "tokens"),
    Key("tokens.last", "end", "token(1000000)", "Last token", "Go to the last token", "tokens"),
    Key("tokens.previous", "up", "alternative(-1)", "Choose", "Choose the alternative above", "tokens",
        footer=True),
    Key("tokens.next", "down", "alternative(1)", "Next alternative", "Choose the alternative below", "tokens"),
    Key("tokens.continue", "enter", "continue_from", "Continue", "Continue the text from the alternative, in Chat",
        "tokens", footer=True),
    Key("tokens.close", "escape,f8", "close", "Close", "Close the colored text", "tokens", footer=True),
    Key("tokens.side", "tab", "other_text", "Other text", "Go to the other text", "tokens", footer=True),
    Key("go.train", "f2,t", "go('train')", "Train", "Go to the Train tab", "everywhere", display="F2"),
    Key("go.chat", "f3,c", "go('chat')", "Chat", "Go to the Chat tab", "everywhere", display="F3"),
    Key("go.checkpoints", "f4,k", "go('checkpoints')", "Checkpoints", "Go to the Checkpoints tab", "everywhere",
        display="F4"),
    Key("go.runs", "f5,g", "go('runs')", "Runs", "Go to the Runs tab", "everywhere", display="F5"),
    Key("go.inside", "f6,h", "go('inside')", "Inside", "Go to the Inside tab", "everywhere", display="F6"),
    Key("go.help", "f1,question_mark", "help", "Help", "Show the keys of this tab", "everywhere", footer=True,
        display="F1"),
    Key("go.quit", "ctrl+q,q", "request_quit", "Quit", "Quit; asks first during a run", "everywhere", footer=True),
    Key("go.interrupt", "ctrl+c", "interrupt", "Save and quit", "Save the run and quit", "everywhere", priority=True),
)  # fmt: skip

BROWSER_KEYS = {"setup.begin": "f9,ctrl+t"}  # by id: a browser opens a tab with Ctrl+T, so the other key is shown


SHORT_NAMES = {
    "solidus": "slash", "reverse_solidus": "backslash", "commercial_at": "at", "hyphen_minus": "minus",
    "plus_sign": "plus", "low_line": "underscore",
}  # fmt: skip
"""Textual's names of characters that are not their Unicode names"""
MODIFIERS = ("alt", "ctrl", "hyper", "meta", "shift", "super")


def name_of(character: str) -> str:
    """Return Textual's name of the key that types a character."""
    if character.isalnum():
        return character
    name = unicodedata.name(character, character).lower().replace("-", "_").replace(" ", "_")
    return SHORT_NAMES.get(name, name)


NAMED_KEYS = {
    "backspace", "delete", "down", "end", "enter", "escape", "home", "insert", "left", "newline", "pagedown",
    "pageup", "right", "space", "tab", "up", "add", "decimal", "divide", "equal", "kp_begin", "multiply",
    "separator", "subtract", "menu", "pause", "print_screen", "scroll_lock", "media_fast_forward", "media_pause",
    "media_play", "media_play_pause", "media_record", "media_reverse", "media_rewind", "media_stop",
    "media_track_next", "media_track_previous", "lower_volume", "mute_volume", "raise_volume",
    *(f"f{number}" for number in range(1, 36)), *map(name_of, string.punctuation),
}  # fmt: skip
"""Textual's names of keys that are not the character that they type. This module does not import Textual."""


def is_key(name: str) -> bool:
    """Return True if Textual reports a key by this name: `s`, `question_mark`, `f9`, `ctrl+shift+left`."""
    if len(name) == 1:
        return name.isprintable()
    *modifiers, key = name.split("+")
    if not (len(key) == 1 or key in NAMED_KEYS):
        try:
            if name_of(unicodedata.lookup(key.replace("_", " "))) != key:
                return False
        except KeyError:
            return False
    return modifiers == sorted({*modifiers} & {*MODIFIERS})


def places_of(view: str) -> tuple[Place, ...]:
    """Return the places whose keys work in a tab or on another screen, without "everywhere"."""
    return TABS[view].places if view in TABS else SCREENS[view]


def keys_of(*places: Place) -> tuple[Key, ...]:
    """Return the keys of places, in the order of the table."""
    return tuple(key for key in KEYS if key.place in places)


def action_of(name: str, place: Place, keymap: dict[str, str]) -> str:
    """Return the action of a key in a place, "" for none. `name` is Textual's name of the key."""
    return next((key.action for key in keys_of(place) if name in (keymap.get(key.id) or key.keys).split(",")), "")


# Keys of the Russian and Ukrainian layouts, and those at the same positions of the Latin one.
_CYRILLIC = dict(zip("йцукенгшщзфывапролдячсмитьі", "qwertyuiopasdfghjklzxcvbnms", strict=True)) | {
    "б": "comma",
    "ю": "full_stop",
}


def other_names(name: str) -> tuple[str, ...]:
    """Return the names that a letter key has in the other case and on a Latin layout, most likely first."""
    if len(name) != 1 or not name.isalpha():
        return ()
    latin = _CYRILLIC.get(name.lower(), "")
    return (latin, latin.swapcase()) if latin else (name.swapcase(),)


def shown_key(key: Key, keymap: Mapping[str, str]) -> str:
    """Return the displayed name of a key: `s`, `F1`, `^r`."""
    chosen = keymap.get(key.id)
    return readable(key.display if key.display and not chosen else (chosen or key.keys).split(",")[0])


def shown_keys(keymap: dict[str, str]) -> dict[str, str]:
    """Return the displayed key of each action; "chat" and "train" are the actions that open these tabs."""
    keys = {key.action: shown_key(key, keymap) for key in KEYS}
    return keys | {tab: keys[f"go('{tab}')"] for tab in ("chat", "train")}


def with_keys(text: str, keymap: Mapping[str, str]) -> str:
    """Return a text with the displayed key in place of each id in braces: `press {train.start}` -> `press s`."""
    keys = {key.id: key for key in KEYS}
    return re.sub(
        r"\{(\w+\.\w+)\}",
        lambda found: shown_key(keys[found[1]], keymap) if found[1] in keys else found[0],
        text,
    )


def readable(name: str) -> str:
    """Return the displayed form of Textual's name of a key: `ctrl+r` -> `^r`, `escape` -> `esc`."""
    words = {
        "escape": "esc",
        "question_mark": "?",
        "plus": "+",
        "minus": "-",
        "equals_sign": "=",
        "comma": ",",
        "full_stop": ".",
        "left_square_bracket": "[",
        "right_square_bracket": "]",
        "up": "↑",
        "down": "↓",
        "pageup": "page up",
        "pagedown": "page down",
        "left": "←",
        "right": "→",
        "space": "space",
    }
    *modifiers, key = name.split("+") if name != "+" else ("+",)
    key = words.get(key, key.upper() if len(key) > 1 and key[0] == "f" and key[1:].isdigit() else key)
    return "".join("^" if modifier == "ctrl" else f"{modifier}+" for modifier in modifiers) + key


def help_table(
    places: Iterable[Place], keymap: dict[str, str], *, typing: bool = False, of_tabs: bool = True
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the title of each place and its (keys, description).

    Args:
        places: The places.
        keymap: Keys chosen by the user.
        typing: Omit keys that type text.
        of_tabs: Include the keys that go to a tab, which do not work on other screens.
    """
    return [
        (
            PLACE_TITLES[place],
            [
                (key_names(key, keymap, typing=typing), key.help)
                for key in keys_of(place)
                if of_tabs or not key.action.startswith("go(")
            ],
        )
        for place in places
    ]


def key_names(key: Key, keymap: dict[str, str], *, typing: bool = False) -> str:
    """Return all keys of an action: `p or space`; `typing` omits those that type text, unless there are no others."""
    names = (keymap.get(key.id) or key.keys).split(",")
    quiet = [name for name in names if len(readable(name)) > 1 and name != "space"]
    return " or ".join(readable(name) for name in (quiet if typing and quiet else names))
