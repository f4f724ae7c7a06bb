"""Interface of the views: what one computes in the worker, and what it shows of that. Does not import Textual.

A view is one module in `gpt_tui.tabs.inside.views`, registered in `gpt_tui.tabs.inside.registry`, with its text in
`gpt_tui.tabs.inside.help_texts`. It has no widgets: it returns lines of spans, which `gpt_tui.shared.canvas.Canvas`
draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

from gpt_core.interpret import Ablation, Part
from gpt_tui.session.checkpoint_history import CheckpointHistories
from gpt_tui.session.inside.subject import Subject
from gpt_tui.session.run_state import RunState
from gpt_tui.shared.spans import Line

Result = TypeVar("Result")

Move = Literal["left", "right", "up", "down", "home", "end", "page_up", "page_down", "previous_head", "next_head"]
"""Moves of the cursor by keys and by the mouse wheel"""


class Cursor(NamedTuple):
    """Place that the views share.

    Attributes:
        token: Position in the text.
        layer: Block of the model.
        head: Attention head of that block.
        place: Place of the residual stream: 0 for the embedding, then two per block.
        choice: Row of a list that Enter acts on; None while the cursor is in the text.
        step: Step of the run; None for that of the model.
        score: Number of a score of the heads (`gpt_tui.session.stats_history.HEAD_SCORES`).
        tensor: Number of a tensor.
    """

    token: int = 0
    layer: int = 0
    head: int = 0
    place: int = 0
    choice: int | None = None
    step: int | None = None
    score: int = 2
    tensor: int = 0


class Size(NamedTuple):
    """Size in cells."""

    width: int
    height: int


class Extent(NamedTuple):
    """Number of positions, layers and heads that a cursor can be at."""

    tokens: int
    layers: int
    heads: int

    def clamped(self, cursor: Cursor) -> Cursor:
        """Return the nearest cursor inside."""
        return cursor._replace(
            token=max(0, min(cursor.token, self.tokens - 1)),
            layer=max(0, min(cursor.layer, self.layers - 1)),
            head=max(0, min(cursor.head, self.heads - 1)),
            place=max(0, min(cursor.place, 2 * self.layers)),
        )


class Origin(NamedTuple):
    """Origin of a model.

    Attributes:
        path: Its checkpoint; None for a model that is in no file.
        step: Its step.
        is_live: True if it is a copy of the model in training.
    """

    path: Path | None = None
    step: int = 0
    is_live: bool = False


class Task(NamedTuple):
    """Input of a computation.

    Attributes:
        subject: Model and text. Calling its `progress` shows a line, and raises if a newer task waits.
        cursor: The cursor.
        size: Size of the area that the result is shown in.
        run: State of the run of this session.
        origin: Where the model is from.
        histories: Histories of checkpoints that have been read.
        effects: Effects of the first parts of the model on this text, to which further ones are added.
        is_eval_text: The text is the beginning of the eval text.
    """

    subject: Subject
    cursor: Cursor
    size: Size
    run: RunState
    origin: Origin
    histories: CheckpointHistories
    effects: list[Ablation]
    is_eval_text: bool = True


class Frame(NamedTuple):
    """Cursor, area and state that a result is drawn for, and the keys that the preferences choose."""

    cursor: Cursor
    size: Size
    extent: Extent
    run: RunState
    keymap: Mapping[str, str] = MappingProxyType({})


class Continuation(NamedTuple):
    """Request to generate from a text, in the Chat tab."""

    prompt: str


class Removal(NamedTuple):
    """Request to leave a part out in the Chat tab, or to put it back."""

    part: Part


Action = Literal["enter", "remove"]


class InsideView(ABC, Generic[Result]):
    """One view. It holds no state: everything is in its arguments.

    Attributes:
        name: Name in the key table, in the registry and in the help texts.
        title: Title in the bar of the views.
        needs_text: False if the view shows something for a model whose text is not found.
        actions: Actions of `act` that do something in the view.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs_text: ClassVar[bool] = True
    actions: ClassVar[Set[Action]] = frozenset()

    def needs(self, cursor: Cursor, size: Size) -> Hashable:
        """Return what the result depends on besides model and text: `compute` runs again for another value."""
        return None

    @abstractmethod
    def compute(self, task: Task) -> Iterator[Result]:
        """Yield results, the last of them complete. Runs in the worker.

        Results are immutable, and hold plain values and arrays, not the model.

        Raises:
            GptError: The view cannot be computed; the line is shown in its place.
        """

    @abstractmethod
    def lines(self, result: Result, frame: Frame) -> Sequence[Line]:
        """Return the lines to show, at most `frame.size.height`."""

    def moved(self, result: Result, frame: Frame, move: Move) -> Cursor:
        """Return the cursor after a key: by default left and right are tokens, up and down layers."""
        return moved(frame.cursor, frame.extent, move)

    def extent(self, result: Result, extent: Extent) -> Extent:
        """Return where the cursor can be, of the extent of model and text."""
        return extent

    def read_tokens(self, result: Result, extent: Extent) -> int:
        """Return how many tokens of the text the result is of."""
        return extent.tokens

    def reads_text(self, result: Result) -> bool:
        """Return True if the result is of the text, False if it is of the log of a run."""
        return True

    def act(self, result: Result, frame: Frame, action: Action) -> Cursor | Continuation | Removal | None:
        """Return what a key for an action does: a cursor, a request to another tab, or None for nothing.

        By default, removing is of the head at the cursor.
        """
        if action == "remove" and "remove" in self.actions:
            return Removal(Part("head", frame.cursor.layer, frame.cursor.head))
        return None


def moved(cursor: Cursor, extent: Extent, move: Move) -> Cursor:
    """Return the cursor after a move through tokens, layers and heads."""
    match move:
        case "left" | "right":
            cursor = cursor._replace(token=cursor.token + (1 if move == "right" else -1))
        case "home" | "end":
            cursor = cursor._replace(token=0 if move == "home" else extent.tokens - 1)
        case "page_up" | "page_down":
            cursor = cursor._replace(token=cursor.token + (10 if move == "page_down" else -10))
        case "up" | "down":
            layer = cursor.layer + (1 if move == "down" else -1)
            cursor = at_layer(cursor, max(0, min(layer, extent.layers - 1)))
        case "previous_head" | "next_head":
            cursor = cursor._replace(head=(cursor.head + (1 if move == "next_head" else -1)) % max(1, extent.heads))
    return extent.clamped(cursor)


def at_layer(cursor: Cursor, layer: int) -> Cursor:
    """Return the cursor at a layer, with the place after its MLP."""
    return cursor._replace(layer=layer, place=2 * layer + 2)
