"""Listing of the models for a tab: in a thread, on request and at intervals."""

from __future__ import annotations

from textual.message import Message
from textual.widget import Widget

from gpt_tui.session.model_options import AvailableModels
from gpt_tui.session.models import ModelLoader

INTERVAL_S = 5.0  # between two listings in a visible tab


class ModelsListed(Message, bubble=False):
    """The models to choose from. Posted by a worker thread."""

    def __init__(self, available: AvailableModels) -> None:
        super().__init__()
        self.available = available


class ModelList:
    """Lists the models for a tab, which receives ModelsListed.

    Args:
        tab: The tab.
        loader: Finds the models.
    """

    def __init__(self, tab: Widget, loader: ModelLoader) -> None:
        self._tab = tab
        self._loader = loader

    def list_at_intervals(self) -> None:
        """List the checkpoints that other programs save or delete, while the tab is visible."""
        self._tab.set_interval(INTERVAL_S, self._list_if_visible)

    def list_now(self) -> None:
        """List the models, in a thread."""
        self._tab.run_worker(
            lambda: self._tab.post_message(ModelsListed(self._loader.available())),
            group="models", thread=True, exclusive=True, exit_on_error=False,
        )  # fmt: skip

    def _list_if_visible(self) -> None:
        if self._tab.is_on_screen:
            self.list_now()
