"""Priorities of the threads of the app: steps of the nice value below the thread that draws the screen."""

TRAINING = 10
"""Training: input and drawing run before it."""
CHECKING = 15
"""Reading files, and computing what the Inside tab shows: training runs before it."""
