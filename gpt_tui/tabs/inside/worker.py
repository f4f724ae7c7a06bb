"""Thread that computes what the Inside tab shows: one request at a time, of which only the newest matters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from textual.message import Message

from gpt_core import interpret
from gpt_core.errors import GptError, reason_of
from gpt_core.interpret import Ablation, Part
from gpt_core.progress import Progress
from gpt_core.thread_priority import lower_priority
from gpt_tui.session.checkpoint_history import CheckpointHistories
from gpt_tui.session.models import ModelLoader
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.sanitize import one_line
from gpt_tui.shared.thread_priority import CHECKING
from gpt_tui.tabs.inside.presenter import TEXT_LABELS, TextChoice
from gpt_tui.tabs.inside.subjects import Held, SubjectSource, random_subject
from gpt_tui.tabs.inside.views.view import Cursor, Extent, InsideView, Origin, Size, Task

PROGRESS_INTERVAL_S = 0.2
MAX_MEASURED = 16  # models and texts whose measured parts are kept
PROBE = TextChoice("probe")


class Request(NamedTuple):
    """Request to compute a view.

    Attributes:
        number: Number of the request.
        view: The view.
        models: Values of one option of a model, or of two to compare.
        text: The text to look at.
        cursor: The cursor.
        size: Size of the area of one model.
        run: State of the run of this session.
        version: Models are loaded again for another number.
    """

    number: int
    view: InsideView[Any]
    models: tuple[str, ...]
    text: TextChoice
    cursor: Cursor
    size: Size
    run: RunState
    version: int


class Outcome(NamedTuple):
    """Result for one model.

    Attributes:
        name: Name of the model.
        extent: Positions, layers and heads of model and text.
        total: Tokens of the complete text, more than positions if it does not fit.
        result: What the view shows.
        checksum: Checksum of the weights.
        text: Name of the text that was read.
    """

    name: str
    extent: Extent
    total: int
    result: Any
    checksum: int
    text: str


class Computed(Message, bubble=False):
    """A result, or why there is none, for the model at `side` of a request. More of them may follow."""

    def __init__(self, number: int, side: int, outcome: Outcome | str) -> None:
        super().__init__()
        self.number = number
        self.side = side
        self.outcome = outcome


class Progressed(Message, bubble=False):
    """Progress of a request as a line; "" when it has ended."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__()
        self.number = number
        self.text = text


class RemovalMeasured(Message, bubble=False):
    """The change of the eval loss without the `removed` parts of a model, or why it is not yet or not known."""

    def __init__(self, removed: Removed, outcome: float | str) -> None:
        super().__init__()
        self.removed = removed
        self.outcome = outcome


class Removed(NamedTuple):
    """Parts to measure.

    Attributes:
        model: Value of the option of the model.
        version: The model is loaded again for another number.
        parts: The parts that are left out.
        checksum: Checksum of the weights that are shown, None before any are.
    """

    model: str
    version: int
    parts: tuple[Part, ...]
    checksum: int | None = None


class SupersededError(Exception):
    """Raised inside the work on a request that is not wanted any more."""


class InsideWorker:
    """Computes requests in a thread of low priority, which starts with the first request.

    Args:
        loader: Loads models.
        post: Posts a message; callable from any thread.
    """

    def __init__(self, loader: ModelLoader, post: Callable[[Message], object]) -> None:
        self._source = SubjectSource(loader)
        self._histories = CheckpointHistories()
        self._effects: dict[Hashable, list[Ablation]] = {}  # by model and text
        self._post = post
        self._changed = threading.Condition()
        self._request: Request | None = None
        self._removed: Removed | None = None
        self._is_new = self._ended = False
        self._thread: threading.Thread | None = None
        self._progressed_s = 0.0

    def request(self, request: Request) -> None:
        """Compute a request instead of any earlier one."""
        with self._changed:
            self._request, self._is_new = request, True
            self._wake()

    def measure(self, removed: Removed) -> None:
        """Measure the loss without some parts, after any request; the newest call counts."""
        with self._changed:
            self._removed = removed
            self._wake()

    def effect(self, checksum: int | None, part: Part) -> float | None:
        """Return the change of the eval loss of a model without a part, None if it has not been measured yet."""
        effects = self._effects.get((checksum, PROBE, None), ())
        return next((effect.change for effect in effects if effect.part == part), None)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="inside", daemon=True)
            self._thread.start()
        self._changed.notify()

    def cancel_request(self) -> None:
        """Stop the work on any request, and free the memory of the models."""
        with self._changed:
            self._request, self._is_new = None, True
            self._changed.notify()

    def cancel(self) -> None:
        """Stop all work: that on a request, and any measurement."""
        with self._changed:
            self._removed = None
        self.cancel_request()

    def end(self) -> None:
        """End the thread after the current part of its work."""
        self._ended = True
        self.cancel()

    def _run(self) -> None:
        lower_priority(CHECKING)
        while not self._ended:
            with self._changed:
                while not self._is_new and self._removed is None:
                    self._changed.wait()
                request, removed = self._request, None if self._is_new else self._removed
                self._is_new = False
            with suppress(SupersededError):
                if removed is not None:
                    self._measure(removed)
                elif request is None:
                    self._source.release()
                else:
                    self._compute(request)

    def _measure(self, removed: Removed) -> None:
        """Measure, unless a request or another measurement is wanted; after a request, this one begins again."""
        self._progressed_s = time.monotonic()

        def check() -> None:
            if self._removed is not removed or self._is_new:
                raise SupersededError

        progress = self._progress(check, lambda text: RemovalMeasured(removed, text))
        outcome: float | str
        try:
            held = self._source.load(removed.model, removed.version, None, progress)
            subject = self._source.subject(held, PROBE, None, progress)
            outcome = interpret.joint_ablation(held.gpt, *subject.eval_inputs_and_targets(), removed.parts, progress)
            check()
        except SupersededError:
            raise
        except (GptError, ValueError) as error:
            outcome = one_line(reason_of(error))
        except Exception as error:
            outcome = f"eval loss unknown: {type(error).__name__}: {one_line(str(error), 200)}"
        with self._changed:
            if self._removed is removed:
                self._removed = None
        if self._request is None:
            self._source.release()  # no request will use the model
        self._send(RemovalMeasured(removed, outcome))

    def _progress(self, check: Callable[[], None], message: Callable[[str], Message]) -> Progress:
        """Return a callback that checks whether the work is wanted, and posts its progress from time to time."""

        def progress(words: str, fraction: float) -> None:
            check()
            now_s = time.monotonic()
            if now_s - self._progressed_s >= PROGRESS_INTERVAL_S:
                self._progressed_s = now_s
                self._send(message(f"{words} {fraction:.0%}" if fraction else words))

        return progress

    def _compute(self, request: Request) -> None:
        self._progressed_s = time.monotonic()  # short work shows no progress
        first: Held | None = None
        for side, model in enumerate(request.models):
            try:
                first = self._compute_side(request, side, model, first)
            except SupersededError:
                raise
            except GptError as error:
                self._send(Computed(request.number, side, one_line(error.reason)))
            except Exception as error:
                text = f"{request.view.name} failed: {type(error).__name__}: {one_line(str(error), 200)}"
                self._send(Computed(request.number, side, text))
        self._source.keep(request.models)
        self._send(Progressed(request.number, ""))

    def _compute_side(self, request: Request, side: int, model: str, first: Held | None) -> Held:
        """Compute the results for one model; `first` is the other one, if there is one. Return the model."""
        progress = self._progress(lambda: self._check(request), lambda text: Progressed(request.number, text))
        held = self._source.load(model, request.version, first, progress)
        try:
            subject, text = self._source.subject(held, request.text, first, progress), TEXT_LABELS[request.text.kind]
        except GptError:
            if request.view.needs_text:
                raise
            subject, text = random_subject(held, progress), "random text"
        shape = held.gpt.shape
        extent = Extent(len(subject.ids), shape.layers, shape.num_heads)
        read = (held.checksum, request.text, first.checksum if first is not None and request.text == PROBE else None)
        effects = self._effects.pop(read, [])
        while len(self._effects) >= MAX_MEASURED:
            del self._effects[next(iter(self._effects))]
        self._effects[read] = effects
        task = Task(
            subject, extent.clamped(request.cursor), request.size, request.run, origin_of(held), self._histories,
            effects, request.text == PROBE,
        )  # fmt: skip
        for result in request.view.compute(task):
            self._check(request)
            outcome = Outcome(held.name, extent, subject.total, result, held.checksum, text)
            self._send(Computed(request.number, side, outcome))
        return held

    def _send(self, message: Message) -> None:
        """Post a message; after the app has ended, without effect."""
        with suppress(RuntimeError):
            self._post(message)

    def _check(self, request: Request) -> None:
        """Raise SupersededError if another request waits, or none is wanted."""
        if self._request is not request or self._ended:
            raise SupersededError


def origin_of(held: Held) -> Origin:
    """Return where a loaded model is from."""
    path = held.bundle.path
    return Origin(Path(path) if path else None, held.bundle.step, held.live is not None)
