"""The prompts that were asked, to be had again with the arrow keys, as a shell does it."""

from __future__ import annotations

MOST_PROMPTS = 100


class PromptHistory:
    """Asked prompts, the newest last, and where in them one is; what was being typed waits at their end."""

    def __init__(self, most: int = MOST_PROMPTS) -> None:
        self._most = most
        self._asked: list[str] = []
        self._back = 0  # how many prompts back from the draft
        self._draft = ""

    def add(self, prompt: str) -> None:
        """One more; the same again is kept once, the oldest is forgotten."""
        self._back = 0
        if prompt and self._asked[-1:] != [prompt]:
            self._asked = [*self._asked, prompt][-self._most :]

    def move(self, by: int, typed: str) -> str:
        """The text to show `by` prompts further on (negative: further back) when `typed` is what is shown now."""
        if self._back == 0:
            self._draft = typed
        self._back = min(max(self._back - by, 0), len(self._asked))
        return self._asked[-self._back] if self._back else self._draft
