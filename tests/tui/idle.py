"""Replacement of Textual's `wait_for_idle` that waits for messages instead of an idle processor."""

from __future__ import annotations

import asyncio

from textual._context import active_app

IDLE_POLLS, MAX_POLLS = 5, 500


async def wait_for_idle(min_sleep: float = 0.0, max_sleep: float = 0.0) -> None:
    """Wait until the message queues of all widgets are empty.

    Textual's function watches the CPU time of the process for up to a second, to which the steps of a run contribute.
    Like Textual's, this one gives up after a bounded time, because messages may arrive without end or stay in the queue
    of a removed widget. Tests therefore wait for the states that they need.
    """
    app = active_app.get()
    idle = 0
    for _ in range(MAX_POLLS):
        await asyncio.sleep(0.001)
        pumps = [app, *(app.screen.walk_children(with_self=True) if app._running and app.screen_stack else [])]
        idle = idle + 1 if all(pump._message_queue.empty() for pump in pumps) else 0
        if idle == IDLE_POLLS:
            return
