"""Text for the exchange between the ranks of a run. The app and the headless output share it."""

from __future__ import annotations

from gpt_core.training.events import ExchangeMeasured, RoundAwaited
from gpt_tui.shared.formatting import integer, percent, size


def exchange_figures(event: ExchangeMeasured) -> tuple[str, str, str]:
    """Return the bytes that rank 0 sends per step, the share of time in exchange, and the fraction that is hidden."""
    share = event.exchange_s / event.training_s if event.training_s > 0 else 0.0
    hidden = max(0.0, event.exchange_s - event.waited_s) / event.exchange_s if event.exchange_s > 0 else 0.0
    return size(event.sent_bytes / max(1, event.steps)), percent(share), percent(hidden)


def exchange_text(event: ExchangeMeasured) -> str:
    """Return the bytes per step, the share of time in exchange, and how much of it overlaps the backward pass."""
    sent, share, hidden = exchange_figures(event)
    return f"{sent} sent per step, {share} of the time, {hidden} of it hidden"


def awaited_text(event: RoundAwaited) -> str:
    """Return when a requested stop or pause takes place."""
    return f"{event.request}s at step {integer(event.until)}, the next exchange of the ranks"
