"""The Runs tab."""

from __future__ import annotations

from textual.containers import Horizontal

from gpt_tui.widgets.run_charts import RunCharts


class RunsPane(Horizontal):
    """The runs whose logs are there."""

    @property
    def charts(self) -> RunCharts | None:
        """The charts of the chosen runs, if there are any."""
        return None

    def enter(self) -> None:
        """The user has come here."""
