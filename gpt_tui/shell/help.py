"""Help screen: the keys of the visible tab, and those that work everywhere."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from gpt_tui.shared.keymap import TABS, Place, help_table, places_of, with_keys
from gpt_tui.shared.row_rendering import render_keys

ABOUT: dict[str, str] = {
    "train": "Training runs in the background; all tabs stay usable. The loss is in nats per token: ⣿ is the loss of "
    "one step, ⠒⠒ the train loss (smoothed), ⠐⠶⠂ the eval loss, ★ the best evaluation, ▲ a value above the range. "
    "Dashed lines are losses without a model: guessing, token frequencies, compressors; {charts.baselines} hides them. "
    "Key {charts.metric} chooses the metric of the second chart; {charts.export} exports charts and samples. "
    "Perplexity is e to the loss: about how many tokens the model is choosing between. Wheel and drag zoom and pan the "
    "charts. The mouse, or the cursor keys ({charts.cursor_left} {charts.cursor_right}), show the values at one step, "
    "and the sample of that time. A sample is what the model generates from a fixed prompt with the same random seed, "
    "before the first step and after each evaluation.",
    "chat": "The model continues each prompt, independently of the ones before. During training it uses a copy of the "
    "weights taken between two steps. Enter on an empty line continues the last reply. The settings select the model "
    "and a second one to compare with, which gets the same prompt, seed and sampling. The line under a reply has its "
    "seed: the same model with the same seed and sampling generates the same reply.",
    "checkpoints": "Checkpoints under the models folder, newest first. ckpt_latest is the newest state of a run, "
    "best_model the one with the best evaluation (by loss or accuracy: the setting best_metric), epoch_NNN a state "
    "after an epoch, transformer the final model of a finished run. The scores are those of the checkpoint's step, "
    "– where it was not evaluated. The checksums of each file are verified once while this tab is open: ✓ OK, "
    "✗ damaged. A resumed run keeps the settings and the folder of its checkpoint.",
    "runs": "Runs with a log, metrics.jsonl, under the models folder or the folder gpt-tui was started in. The run "
    "under the cursor is replayed from its log, and followed live while another process trains it; following takes no "
    "lock and changes no file. Key {runs.mark} marks runs to compare. Each marked run has a number in the list, on its "
    "line and in the legend, which shows the values at the chart's cursor. Compare runs with different tokenizers by "
    "bits per byte. {runs.surprise} colors the sample at the cursor by surprise, and {runs.inside} shows the run's "
    "attention heads over time.",
    "inside": "What a model computes on a text. The views share one cursor (token, layer, head), which stays when the "
    "view or the model changes. The probe is the beginning of the eval text. The model in training is shown with a "
    "copy of its weights, taken again after each evaluation and with {inside.refresh}. Compare shows a second model on "
    "the same text, such as the one before the first step. While another tab is shown, nothing is computed here.",
    "tokens": "Each token has the color of its surprise, -log2 of its probability after the tokens before it: 0 bits "
    "for a token that the model was certain of, 1 bit for one of probability 1/2, 10 bits for one of about 1/1000. The "
    "cursor shows the 8 most probable tokens in its place; ✓ marks the one in the text. Expect high values where a "
    "word or name begins and low ones inside it. Try: find the first surprising token, choose the most probable one "
    "in its place, and press {tokens.continue} to continue from there. The line under the text names the "
    "weights that scored it: those at the step of a sample or reply are kept only in checkpoints.",
    "setup": "All settings of a run, checked as you type: ✗ marks an invalid field, • one that differs from the "
    "preset. Beside them is an estimate: memory is computed, the time per step is measured here on a few "
    "steps that are discarded. `gpt-tui --config FILE` starts a run with saved settings.",
}
INDENT = "  "
KEY_WIDTH = 20  # with the indentation
MAX_TEXT_WIDTH = 78  # of the dialog, without its border and padding


def help_text(tab: str, keymap: dict[str, str], width: int, about: str = "") -> Content:
    """Return the description of a tab and its keys, with lines of keys at most `width` cells wide.

    `about` describes the part of the tab that is visible, and comes first.
    """
    places: list[Place] = [*places_of(tab), "everywhere"]
    parts = [
        *((Content(with_keys(about, keymap)), Content("")) if about else ()),
        Content(with_keys(ABOUT[tab], keymap)),
        Content(""),
    ]
    for title, keys in help_table(places, keymap, typing=tab in ("chat", "setup"), of_tabs=tab in TABS):
        parts += render_keys(title, [(f"{INDENT}{names}", words) for names, words in keys], KEY_WIDTH, width)
        parts.append(Content(""))
    parts.append(Content.styled("^p opens the command palette: every command, themes, a screenshot.", "$muted"))
    return Content("\n").join(parts)


class HelpScreen(ModalScreen[None]):
    """Describes a tab and lists its keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,question_mark,enter", "dismiss", "Close", show=True, key_display="esc")
    ]

    def __init__(self, tab: str, keymap: dict[str, str], about: str = "") -> None:
        super().__init__()
        self._about = about
        self._tab = tab
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        """Compose the description and the keys."""
        with VerticalScroll(id="help"):
            yield Static(help_text(self._tab, self._keymap, MAX_TEXT_WIDTH, self._about), markup=False)

    def on_mount(self) -> None:
        """Set the titles and take the focus."""
        scroll = self.query_one("#help")
        scroll.border_title = "help"
        scroll.border_subtitle = "esc close"
        scroll.focus()
        self.call_after_refresh(self._fit)

    def on_resize(self) -> None:
        """Wrap the text again."""
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        text = self.query_one("#help Static", Static)
        text.update(help_text(self._tab, self._keymap, text.size.width, self._about))
