"""Baselines of a run, measured in a thread of low priority that starts after the first step, or read from a cache."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

from gpt_core.errors import GptError
from gpt_core.text.baselines import Baselines, baselines_key, measure_baselines, read_baselines, write_baselines
from gpt_core.thread_priority import lower_priority
from gpt_core.training.events import BaselinesMeasured
from gpt_core.training.run import Run

BELOW_TRAINING = 5  # steps of the nice value below the training threads: about a third of their weight


class BaselineMeter:
    """Measures the baselines of one run once. Training waits for nothing; a text without baselines has no event."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._found: Baselines | None = None
        texts = run.texts
        self._is_done = True
        if run.is_reported and texts.held_out is not None and texts.eval_path is not None:
            self._is_done = False
            self._eval_text, self._eval_path = texts.held_out, texts.eval_path
            self._key = baselines_key(texts.train, self._eval_text, run.tokenizer)
            self._found = read_baselines(self._eval_path, self._key)

    def poll(self) -> Iterator[BaselinesMeasured]:
        """Yield the event of the baselines once they are known; start measuring after the first step."""
        if self._is_done:
            return
        if (found := self._found) is not None:
            self._is_done = True
            yield BaselinesMeasured(
                self._run.state.step, found.uniform, found.unigram, found.bytes_per_token, found.compressed,
                found.compressed_bytes,
            )  # fmt: skip
        elif self._thread is None and not self._run.is_at_start:
            self._thread = threading.Thread(target=self._measure, name="baselines", daemon=True)
            with suppress(RuntimeError):  # no more threads available: the run has no baselines
                self._thread.start()

    def close(self) -> None:
        """Stop measuring, and wait until the thread has ended."""
        self._is_done = True
        self._stopping.set()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()

    def _measure(self) -> None:
        lower_priority(BELOW_TRAINING)
        run = self._run
        with suppress(GptError, MemoryError):  # training reports what it cannot read itself
            found = measure_baselines(run.texts.train, self._eval_text, run.tokenizer, self._stopping.is_set)
            if found is not None:
                write_baselines(self._eval_path, self._key, run.texts.eval_sha256, found)
                self._found = found
