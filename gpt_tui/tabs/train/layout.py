"""Which parts of the Train tab are seen, as far as the user decides it; the rest is in the styles. Pure."""

from __future__ import annotations

from typing import Literal

Notes = Literal["samples", "log", "alone"]


def next_notes(notes: Notes, *, both_seen: bool) -> Notes:
    """What is seen after a press of the key: samples, log in their place, samples alone without the charts.

    Where there is room for `both_seen`, samples and log, there is nothing to put in the other's place.
    """
    order: tuple[Notes, ...] = ("samples", "alone") if both_seen else ("samples", "log", "alone")
    return order[(order.index(notes) + 1) % len(order)] if notes in order else "samples"


def notes_title(notes: Notes, name: Notes, *, both_seen: bool, key: str) -> str:
    """The title of samples or log, as markup; beside it the key, and what that shows instead."""
    if notes == "alone":
        other = "charts"
    elif both_seen:
        other = "samples alone" if name == "samples" else ""
    else:
        other = "log" if name == "samples" else "samples alone"
    return f"[b]{name}[/b]  [dim]{key} {other}[/]" if other else f"[b]{name}[/b]"
