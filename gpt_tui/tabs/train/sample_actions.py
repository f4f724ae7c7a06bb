"""What the keys of samples and log do."""

from __future__ import annotations

from textual.screen import Screen

from gpt_tui.run_view.log_panel import LogPanel
from gpt_tui.run_view.samples_panel import SamplesPanel
from gpt_tui.shared.keymap import keys_of
from gpt_tui.tabs.train.pane import TrainTab

SAMPLE_ACTIONS = frozenset(key.action.partition("(")[0] for key in keys_of("samples"))


class SampleActions(Screen[None]):
    """The actions of the key table's "samples" keys; they move the log where that is seen in the samples' place."""

    @property
    def train_pane(self) -> TrainTab:
        """The Train tab."""
        raise NotImplementedError

    @property
    def _notes(self) -> SamplesPanel | LogPanel:
        samples = self.train_pane.query_one(SamplesPanel)
        return samples if samples.display else self.train_pane.query_one(LogPanel)

    def action_switch_notes(self) -> None:
        """The samples, the log, or the samples alone."""
        self.train_pane.switch_notes()
        self.refresh_bindings()  # those of the charts come and go with these

    def action_samples(self, number: int) -> None:
        """So many samples on, or back; so many lines of the log."""
        notes = self._notes
        if isinstance(notes, SamplesPanel):
            notes.go(number)
        else:
            notes.scroll_relative(y=number, animate=False)

    def action_samples_page(self, pages: int) -> None:
        """A page on, or back."""
        notes = self._notes
        if isinstance(notes, SamplesPanel):
            notes.go_page(pages)
        else:
            notes.scroll_relative(y=pages * notes.size.height, animate=False)

    def action_samples_end(self, first: bool) -> None:
        """The first sample or line, or the newest."""
        notes = self._notes
        if isinstance(notes, SamplesPanel):
            notes.go_to_end(first=first)
        elif first:
            notes.scroll_home(animate=False)
        else:
            notes.scroll_end(animate=False)
