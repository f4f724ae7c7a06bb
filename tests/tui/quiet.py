"""Waiting in the tests of the app: for its messages, not for a processor that has nothing to do."""

from __future__ import annotations

import asyncio

from textual._context import active_app

QUIET_ROUNDS, MAX_ROUNDS = 5, 500


async def until_quiet(min_sleep: float = 0.0, max_sleep: float = 0.0) -> None:
    """Wait until no widget has a message left to handle, however busy the machine; replaces Textual's `wait_for_idle`.

    Textual's looks at the process's use of the processor for up to a second: the steps of a run that a test has
    started count there as work to be waited for. Like that one this ends also where messages come without end, or stay
    in the queue of a widget that is removed: tests wait for the states that they need.
    """
    app = active_app.get()
    quiet = 0
    for _ in range(MAX_ROUNDS):
        await asyncio.sleep(0.001)
        pumps = [app, *(app.screen.walk_children(with_self=True) if app._running and app.screen_stack else [])]
        quiet = quiet + 1 if all(pump._message_queue.empty() for pump in pumps) else 0
        if quiet == QUIET_ROUNDS:
            return
