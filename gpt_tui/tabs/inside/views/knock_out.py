"""View Knock-out: the change of the loss without each head, MLP and block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gpt_core import interpret
from gpt_core.interpret import Ablation, Part
from gpt_tui.shared.formatting import integer, nats, part_name
from gpt_tui.shared.keymap import with_keys
from gpt_tui.shared.spans import Line, Span, shortened, side_by_side
from gpt_tui.tabs.inside.views.view import Action, Continuation, Cursor, Extent, Frame, InsideView, Move, Removal, Task

COLUMN_WIDTH = 48  # of one column of parts, at least
NAME_WIDTH = 16
HEADER_ROWS = 3


class KnockOut(NamedTuple):
    """Effects of the parts that have been left out so far.

    Attributes:
        parts: All parts of the model.
        effects: Effect of the first of them.
        loss: Loss of the intact model; NaN before the first effect.
        tokens: Tokens that it is the mean of.
        is_eval_text: They are of the eval text.
    """

    parts: Sequence[Part]
    effects: Sequence[Ablation]
    loss: float
    tokens: int
    is_eval_text: bool


class KnockOutView(InsideView[KnockOut]):
    """A bar per head, MLP and block: how much the loss of the text rises without it."""

    name = "ablation"
    title = "Knock-out"
    actions = frozenset({"remove"})

    def compute(self, task: Task) -> Iterator[KnockOut]:
        """Yield the effects so far, at first those that were measured before, then after each part."""
        subject = task.subject
        inputs, targets = subject.eval_inputs_and_targets()
        parts = tuple(interpret.all_parts(subject.gpt.shape))
        effects = task.effects
        subject.progress("leaving out each part", len(effects) / len(parts))
        loss = effects[0].loss - effects[0].change if effects else float("nan")
        yield KnockOut(parts, tuple(effects), loss, targets.size, task.is_eval_text)
        if len(effects) == len(parts):
            return
        for effect in interpret.ablations(subject.gpt, inputs, targets, parts[len(effects) :]):
            effects.append(effect)
            subject.progress("leaving out each part", len(effects) / len(parts))
            yield KnockOut(parts, tuple(effects), effect.loss - effect.change, targets.size, task.is_eval_text)

    def lines(self, result: KnockOut, frame: Frame) -> Sequence[Line]:
        """Return the loss of the intact model and the page of parts with the cursor, in as many columns as fit."""
        width, height = frame.size
        columns = max(1, width // COLUMN_WIDTH)
        rows = max(1, min(height - HEADER_ROWS, -(-len(result.parts) // columns)))
        chosen = index_at(result.parts, frame.cursor)
        first = chosen // (columns * rows) * columns * rows
        column_width = width // columns
        page: list[Line] = []
        for column in range(columns - 1, -1, -1):
            begin = first + column * rows
            found = [
                part_line(result, number, frame.cursor, number == chosen, column_width - 1)
                for number in range(begin, min(begin + rows, len(result.parts)))
            ]
            page = side_by_side(found, page, column_width) if page else found
        return [*header(result, width, frame.keymap), *page][:height]

    def moved(self, result: KnockOut, frame: Frame, move: Move) -> Cursor:
        """Return the cursor: up and down are parts, left and right layers."""
        number, count = index_at(result.parts, frame.cursor), len(result.parts)
        per_layer = max(1, count // max(1, frame.extent.layers))
        steps = {"up": -1, "down": 1, "previous_head": -1, "next_head": 1, "left": -per_layer, "right": per_layer,
                 "page_up": -10, "page_down": 10, "home": -count, "end": count}  # fmt: skip
        return cursor_at(result.parts, max(0, min(count - 1, number + steps[move])), frame.cursor)

    def read_tokens(self, result: KnockOut, extent: Extent) -> int:
        """Return the tokens that the loss is the mean of, which may be more than a context."""
        return max(extent.tokens, result.tokens)

    def act(self, result: KnockOut, frame: Frame, action: Action) -> Cursor | Continuation | Removal | None:
        """Remove the part at the cursor, or put it back."""
        return Removal(result.parts[index_at(result.parts, frame.cursor)]) if action == "remove" else None


def index_at(parts: Sequence[Part], cursor: Cursor) -> int:
    """Return the index of the part at the cursor: the chosen row, or else the cursor's head."""
    if cursor.choice is not None and cursor.choice < len(parts):
        return cursor.choice
    head = Part("head", cursor.layer, cursor.head)
    return parts.index(head) if head in parts else 0


def cursor_at(parts: Sequence[Part], number: int, cursor: Cursor) -> Cursor:
    """Return the cursor on a part; its layer and head are those of the other views."""
    part = parts[number]
    head = part.head if part.kind == "head" else cursor.head
    return cursor._replace(choice=number, layer=part.layer, head=head, place=2 * part.layer + 2)


def header(result: KnockOut, width: int, keymap: Mapping[str, str]) -> list[Line]:
    """Return the loss of the intact model and what the numbers are."""
    done, count = len(result.effects), len(result.parts)
    of_what = "eval loss" if result.is_eval_text else "loss of this text"
    loss = f"{of_what} {nats(result.loss)} intact, {integer(result.tokens)} tokens" if done else "measuring"
    progress = f"   {done} of {count} parts" if done < count else ""
    meaning = "change without each part ({inside.remove}: leave it out in Chat); bars: relative to its kind"
    return [
        [Span(shortened(loss + progress, width), style="title")],
        [Span(shortened(with_keys(meaning, keymap), width), style="muted")],
        (),
    ]


def part_line(result: KnockOut, number: int, cursor: Cursor, chosen: bool, width: int) -> Line:
    """Return the name of a part, the change without it, and a bar."""
    part, at = result.parts[number], cursor_at(result.parts, number, cursor)
    spans = [
        Span("▸ " if chosen else "  ", style="mark", at=at),
        Span(f"{part_name(part):<{NAME_WIDTH}}", style="cursor" if chosen else "", at=at),
    ]
    if number >= len(result.effects):
        return [*spans, Span("      …", style="muted", at=at)]
    change = result.effects[number].change
    largest = max((abs(effect.change) for effect in result.effects if effect.part.kind == part.kind), default=0.0)
    room = max(0, width - NAME_WIDTH - 12)
    cells = round(room * abs(change) / largest) if largest > 0 else 0
    bar = Span("█" * cells, style="mark" if change >= 0 else "good", at=at)
    return [*spans, Span(f" {change:+7.3f} ", style="bold" if chosen else "", at=at), bar]
