"""The one table of keys. Bindings, the footer, the buttons, the command palette and the F1 help derive from it.

Each key has an id by which `App.set_keymap` can give it other keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Place = Literal["train", "charts", "samples", "chat", "checkpoints", "runs", "setup", "everywhere"]

PLACE_TITLES: dict[Place, str] = {
    "train": "Training (Train tab)",
    "charts": "Charts",
    "samples": "Samples and log",
    "chat": "Chat tab",
    "checkpoints": "Checkpoints tab",
    "runs": "Runs tab",
    "setup": "Set up",
    "everywhere": "Everywhere",
}


class TabInfo(NamedTuple):
    """A tab of the main screen: its title, and whose keys work there beside those that work everywhere."""

    title: str
    places: tuple[Place, ...]


TABS: dict[str, TabInfo] = {
    "train": TabInfo("Train", ("train", "samples", "charts")),
    "chat": TabInfo("Chat", ("chat",)),
    "checkpoints": TabInfo("Checkpoints", ("checkpoints",)),
    "runs": TabInfo("Runs", ("runs", "charts")),
}


class Key(NamedTuple):
    """One thing the user can do. `keys` are Textual's names, the first one is shown; `button`: it has one, too."""

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
    Key("train.start", "s", "start", "Start", "Start training from the beginning", "train", button=True),
    Key("train.setup", "u", "setup", "Set up", "Choose model, text and rates before starting", "train", button=True),
    Key("train.pause", "p,space", "pause", "Pause", "Pause after this step, or go on", "train", button=True),
    Key("train.step", "n", "step", "Step", "Take one step, then wait", "train", button=True),
    Key("train.save", "w", "save", "Save", "Save a checkpoint and go on training", "train", button=True),
    Key("train.resume", "r", "resume", "Resume", "Go on from the newest checkpoint", "train", button=True),
    Key("train.overfit", "o", "overfit", "Overfit", "Learn a few lines by heart, as a check", "train", button=True),
    Key("train.stop", "x", "stop", "Stop", "Stop after this step, saving a checkpoint", "train", button=True),
    Key("train.evaluate", "e", "evaluate", "Evaluate", "Score the eval text now, and go on", "train"),
    Key("train.now", "enter", "start_now", "Start now", "Start the first run without waiting for it", "train"),
    Key("samples.switch", "v", "switch_notes", "View", "Show the samples, the log, or the samples alone", "samples",
        footer=True),
    Key("samples.earlier", "up", "samples(-1)", "Earlier sample", "Scroll to the sample before", "samples"),
    Key("samples.later", "down", "samples(1)", "Later sample", "Scroll to the next sample", "samples"),
    Key("samples.page_earlier", "pageup", "samples_page(-1)", "Samples back", "Scroll back by a page", "samples"),
    Key("samples.page_later", "pagedown", "samples_page(1)", "Samples on", "Scroll on by a page", "samples"),
    Key("samples.first", "home", "samples_end(True)", "First sample", "The untrained model's sample", "samples"),
    Key("samples.last", "end", "samples_end(False)", "Newest sample", "The newest sample, and follow", "samples"),
    Key("charts.log", "l", "log_scale", "Log scale", "Logarithmic or linear y axis", "charts", footer=True),
    Key("charts.axis", "a", "next_axis", "Axis", "Show the charts over steps, tokens or time", "charts", footer=True),
    Key("charts.range", "y", "next_y_range", "y range", "The y axis: as suits, from the top, or close up", "charts"),
    Key("charts.cursor_left", "comma,shift+left", "cursor(-1)", "Read", "Read the charts further left, and show that "
        "time's sample", "charts", footer=True, display=","),
    Key("charts.cursor_right", "full_stop,shift+right", "cursor(1)", "Read charts on", "Read the charts further "
        "right", "charts", display="."),
    Key("charts.cursor_off", "escape", "cursor_off", "Stop reading charts", "Stop reading the charts", "charts"),
    Key("charts.zoom_in", "plus,equals_sign", "zoom(0.5)", "Zoom in", "Show half as much", "charts", display="+"),
    Key("charts.zoom_out", "minus", "zoom(2.0)", "Zoom out", "Show twice as much", "charts", display="-"),
    Key("charts.whole", "0", "zoom_reset", "Whole run", "Show the whole run", "charts"),
    Key("charts.left", "left", "pan(-0.25)", "Pan left", "Move to earlier steps", "charts"),
    Key("charts.right", "right", "pan(0.25)", "Pan right", "Move to later steps", "charts"),
    Key("chat.stop", "escape", "stop_reply", "Stop", "Stop the reply, or leave the chat", "chat", footer=True),
    Key("chat.retry", "ctrl+r", "retry", "Retry", "Generate again from the last prompt", "chat", footer=True),
    Key("chat.seed", "ctrl+s", "keep_seed", "Keep seed", "Use the last reply's seed for the next replies",
        "chat"),
    Key("chat.copy", "ctrl+y", "copy_reply", "Copy", "Copy the last reply; of two, each in turn", "chat", footer=True),
    Key("chat.clear", "ctrl+l", "clear_chat", "Clear", "Clear the conversation", "chat"),
    Key("chat.fields", "f6", "switch_side", "Settings", "Move between the prompt and the settings", "chat",
        footer=True),
    Key("chat.earlier", "up", "move(-1)", "Earlier prompt", "Previous prompt; in the settings, previous field", "chat"),
    Key("chat.later", "down", "move(1)", "Later prompt", "Next prompt; in the settings, next field", "chat"),
    Key("chat.page_up", "pageup", "page(-1)", "Page up", "Scroll the conversation up", "chat"),
    Key("chat.page_down", "pagedown", "page(1)", "Page down", "Scroll the conversation down", "chat"),
    Key("checkpoints.resume", "r,enter", "resume_from", "Resume", "Resume training from this checkpoint", "checkpoints",
        footer=True),
    Key("checkpoints.chat", "c", "chat_with", "Chat", "Chat with this checkpoint", "checkpoints", footer=True),
    Key("checkpoints.beside", "b", "compare_in_chat", "Compare", "Compare this checkpoint with the chat's model",
        "checkpoints", footer=True),
    Key("checkpoints.verify", "v", "verify", "Verify", "Verify the checksums of this checkpoint", "checkpoints",
        footer=True),
    Key("checkpoints.delete", "d,delete", "delete", "Delete", "Delete this checkpoint; asks first", "checkpoints",
        footer=True),
    Key("runs.mark", "space", "mark", "Mark", "Mark this run to compare it, or unmark it", "runs", footer=True),
    Key("runs.unmark", "u", "unmark", "Unmark", "Unmark all runs", "runs", footer=True),
    Key("runs.quantity", "m", "next_quantity", "Metric", "Compare loss, perplexity or bits per byte", "runs",
        footer=True),
    Key("runs.notes", "v", "switch_panels", "Panels", "Show samples, log, or neither", "runs", footer=True),
    Key("setup.begin", "ctrl+t", "begin_run", "Start", "Start training with these settings", "setup", button=True),
    Key("setup.save", "ctrl+s", "save_config", "Save as file", "Save as a config file", "setup", button=True),
    Key("setup.back", "escape", "leave_setup", "Back", "Go back; what is typed is kept", "setup", button=True),
    Key("setup.next", "down", "next_field", "Next field", "Go to the next field (also tab)", "setup"),
    Key("setup.previous", "up", "previous_field", "Field before", "Go to the field before (also shift+tab)", "setup"),
    Key("go.train", "f2,t", "go('train')", "Train", "Go to the Train tab", "everywhere", display="F2"),
    Key("go.chat", "f3,c", "go('chat')", "Chat", "Go to the Chat tab", "everywhere", display="F3"),
    Key("go.checkpoints", "f4,k", "go('checkpoints')", "Checkpoints", "Go to the Checkpoints tab", "everywhere",
        display="F4"),
    Key("go.runs", "f5,g", "go('runs')", "Runs", "Go to the Runs tab", "everywhere", display="F5"),
    Key("go.help", "f1,question_mark", "help", "Help", "The keys of this tab", "everywhere", footer=True, display="F1"),
    Key("go.quit", "ctrl+q,q", "request_quit", "Quit", "Leave; asks first during a run", "everywhere", footer=True),
    Key("go.interrupt", "ctrl+c", "interrupt", "Save and quit", "Stop, save and leave", "everywhere", priority=True),
)  # fmt: skip


def places_of(view: str) -> tuple[Place, ...]:
    """Whose keys work in a tab or on the set-up screen, beside those that work everywhere."""
    return TABS[view].places if view in TABS else ("setup",)


def keys_of(*places: Place) -> tuple[Key, ...]:
    """The keys that are of these places, in the table's order."""
    return tuple(key for key in KEYS if key.place in places)


def action_of(name: str, place: Place, keymap: dict[str, str]) -> str:
    """What a key does in a place, after the user's own keymap; "" if nothing. `name` is Textual's."""
    return next((key.action for key in keys_of(place) if name in (keymap.get(key.id) or key.keys).split(",")), "")


def shown_key(key: Key, keymap: dict[str, str]) -> str:
    """The key as a user reads it, after his own keymap: `s`, `F1`, `^r`."""
    first = keymap.get(key.id, "") or (key.display or key.keys)
    return readable(first.split(",")[0])


def readable(name: str) -> str:
    """A key's name, short: `ctrl+r` -> `^r`, `escape` -> `esc`."""
    words = {
        "escape": "esc",
        "question_mark": "?",
        "plus": "+",
        "minus": "-",
        "equals_sign": "=",
        "comma": ",",
        "full_stop": ".",
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
    places: Iterable[Place], keymap: dict[str, str], *, typing: bool = False
) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each place its title and its (keys, what they do); where one is `typing`, without the keys that write."""
    return [
        (PLACE_TITLES[place], [(key_names(key, keymap, typing=typing), key.help) for key in keys_of(place)])
        for place in places
    ]


def key_names(key: Key, keymap: dict[str, str], *, typing: bool = False) -> str:
    """All keys that do it: `p or space`; where one is `typing`, those that write nothing, if there are any."""
    names = (keymap.get(key.id) or key.keys).split(",")
    quiet = [name for name in names if len(readable(name)) > 1 and name != "space"]
    return " or ".join(readable(name) for name in (quiet if typing and quiet else names))
