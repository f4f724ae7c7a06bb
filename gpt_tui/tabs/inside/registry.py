"""The views in the order of their keys."""

from __future__ import annotations

from typing import Any

from gpt_tui.tabs.inside.views.attention import AttentionView
from gpt_tui.tabs.inside.views.heads import HeadsView
from gpt_tui.tabs.inside.views.health import HealthView
from gpt_tui.tabs.inside.views.knock_out import KnockOutView
from gpt_tui.tabs.inside.views.lens import LensView
from gpt_tui.tabs.inside.views.neighbors import NeighborsView
from gpt_tui.tabs.inside.views.tokens import TokensView
from gpt_tui.tabs.inside.views.view import InsideView

VIEWS: tuple[InsideView[Any], ...] = (
    TokensView(),
    LensView(),
    AttentionView(),
    HeadsView(),
    HealthView(),
    KnockOutView(),
    NeighborsView(),
)


def view_named(name: str) -> InsideView[Any]:
    """Return a view. Raises KeyError if there is none of this name."""
    return {view.name: view for view in VIEWS}[name]
