"""Prompt history for the arrow keys, as in a shell."""

from __future__ import annotations

MAX_PROMPTS = 100


class PromptHistory:
    """Submitted prompts, newest last, and the current position; the unsent text is the entry after the newest."""

    def __init__(self, capacity: int = MAX_PROMPTS) -> None:
        self._capacity = capacity
        self._prompts: list[str] = []
        self._back = 0  # entries back from the unsent text
        self._unsent = ""

    def add(self, prompt: str) -> None:
        """Append a prompt and go to the end. Skips a repetition of the newest one; drops the oldest when full."""
        self._back = 0
        if prompt and self._prompts[-1:] != [prompt]:
            self._prompts = [*self._prompts, prompt][-self._capacity :]

    def move(self, by: int, typed: str) -> str:
        """Move `by` entries (negative: back) and return the text there; `typed` is the text shown now."""
        if self._back == 0:
            self._unsent = typed
        self._back = min(max(self._back - by, 0), len(self._prompts))
        return self._prompts[-self._back] if self._back else self._unsent
