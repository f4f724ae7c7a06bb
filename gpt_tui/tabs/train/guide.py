"""Notes that explain a user's first run, each while what it explains lasts. Pure; the texts are in `guide_texts`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import pairwise
from statistics import median
from typing import Literal, NamedTuple

from gpt_tui.session.curve import HIGH
from gpt_tui.session.learning_text import SMALL_GAP, gap_text
from gpt_tui.session.run_state import RunState, Sample
from gpt_tui.session.run_text import gap_at
from gpt_tui.shared.formatting import nats
from gpt_tui.shared.sanitize import one_line
from gpt_tui.tabs.train.guide_texts import TEXTS

MIN_SHOWN_S = 20.0  # before a note gives way to the next one
OFF = "off"
MAX_PROMPT = 30
MIN_TEXT = 24  # characters of a sample that is judged
SPACES, WORD_LENGTHS, MAX_WORD = (0.08, 0.35), (2, 8), 24  # of prose: share of white space; median and longest word
NEAR_FREQUENCIES, BELOW_FREQUENCIES = 0.5, 1.0  # nats per token from the entropy of token frequencies
FREQUENCIES_BELOW_FIRST = 1.5  # where that entropy is unknown: about so far below the first loss
OVERFITTING_GAP = 0.3  # of the eval loss above the train loss, in nats per token
RISING = "the eval loss has risen above its lowest value"
RISE = 0.02  # of the eval loss above the best one, in nats per token

Subject = Literal["charts", "samples"]


class Note(NamedTuple):
    """A note: its name, title and text, and the panel that it explains."""

    name: str
    title: str
    text: str
    subject: Subject


def next_note(run: RunState, seen: Collection[str]) -> Note | None:
    """Return the first note that is true of a run and not among the names `seen`, None if there is none."""
    return next((note for name in CONDITIONS if name not in seen and (note := note_of(run, name)) is not None), None)


def note_of(run: RunState, name: str) -> Note | None:
    """Return the note of this name with the present values of a run, None if it is not true of the run."""
    is_true, subject = CONDITIONS[name]
    if run.started is None or run.started.kind != "train" or not is_true(run):
        return None
    title, text = TEXTS[name]
    return Note(name, title, text.format(**values_of(run)), subject)


def values_of(run: RunState) -> dict[str, str]:
    """Return what replaces the words in braces of a text."""
    prompt = run.samples[-1].prompt if run.samples else ""
    point = run.evaluation
    gap = RISING
    if point is not None and point.passes >= 1 and point.loss - point.train_loss > SMALL_GAP:
        gap = gap_text(point.train_loss, point.loss, point.passes)
    return {
        "prompt": one_line(prompt, MAX_PROMPT),
        "loss": nats(first_loss(run)),
        "gap": gap[:1].upper() + gap[1:],
    }


def is_first_sample(run: RunState) -> bool:
    """Return True if the newest sample is of a model that has not learned yet."""
    return starts_at_random(run) and bool(run.samples) and run.samples[-1].step == 0


def is_first_loss(run: RunState) -> bool:
    """Return True if the loss of the first step is known, and the samples of the run have no words yet."""
    return starts_at_random(run) and run.last is not None and run.finished is None and not has_words(run)


def has_spaces(run: RunState) -> bool:
    """Return True if the newest sample is spaced like prose, and the losses are about that of token frequencies."""
    sample = newest_sample(run)
    if sample is None or not is_spaced(sample.text):
        return False
    loss = loss_of(run, sample)
    lowest = min(loss, run.curve.smoothed)
    return loss < frequencies(run) + NEAR_FREQUENCIES and lowest > frequencies(run) - NEAR_FREQUENCIES


def has_words(run: RunState) -> bool:
    """Return True if the newest sample is spaced like prose, and the loss far below that of token frequencies."""
    sample = newest_sample(run)
    if sample is None or not is_spaced(sample.text) or run.diverging is not None:
        return False
    return loss_of(run, sample) < frequencies(run) - BELOW_FREQUENCIES


def overfits(run: RunState) -> bool:
    """Return True if the eval loss rises, or no longer falls and is far above the train loss after a pass."""
    losses, point = [point.loss for point in run.evaluations if point.step > 0], run.evaluation
    if point is None or len(losses) < 2 or point.loss <= point.train_loss or gap_at(run, point) is None:
        return False
    is_rising = min(losses[-2:]) > min(losses) + RISE
    is_falling = point.loss < min(losses[:-1])
    return is_rising or (not is_falling and point.passes >= 1 and point.loss - point.train_loss > OVERFITTING_GAP)


CONDITIONS: dict[str, tuple[Callable[[RunState], bool], Subject]] = {
    "sample": (is_first_sample, "samples"),
    "first_loss": (is_first_loss, "charts"),
    "spaces": (has_spaces, "samples"),
    "words": (has_words, "samples"),
    "overfitting": (overfits, "charts"),
}


def starts_at_random(run: RunState) -> bool:
    """Return True if the run began with random weights and from its first step."""
    return run.started is not None and not run.started.init_from and run.started.step == 0


def newest_sample(run: RunState) -> Sample | None:
    """Return the newest sample after the first step, None without one."""
    return run.samples[-1] if run.samples and run.samples[-1].step > 0 else None


def is_spaced(text: str) -> bool:
    """Return True if white space and words of a text are about as long as in prose."""
    words = text.split()
    if len(text) < MIN_TEXT or len(words) < 2:
        return False
    share = sum(character.isspace() for character in text) / len(text)
    lengths = [len(word) for word in words]
    repeats = sum(first == second for first, second in pairwise(words)) > len(words) // 2
    is_prose = SPACES[0] <= share <= SPACES[1] and WORD_LENGTHS[0] <= median(lengths) <= WORD_LENGTHS[1]
    return is_prose and max(lengths) <= MAX_WORD and not repeats


def first_loss(run: RunState) -> float:
    """Return the loss of the first step of which the curve has a value; infinity before it."""
    rows = run.curve.rows()
    return float(rows[0, HIGH]) if len(rows) else float("inf")


def frequencies(run: RunState) -> float:
    """Return the entropy of token frequencies, or about that where it has not been measured."""
    return run.baselines.unigram if run.baselines is not None else first_loss(run) - FREQUENCIES_BELOW_FIRST


def loss_of(run: RunState, sample: Sample) -> float:
    """Return the eval loss at a sample, the train loss where it has none."""
    return sample.evaluation.loss if sample.evaluation is not None else run.curve.smoothed


class Guide:
    """Chooses the note to show: one at a time, each once per user.

    Attributes:
        is_off: True if the notes are switched off.
        note: The note to show, None for none.

    Args:
        stored: The stored preference: names of the notes that were shown, separated by commas, or OFF.
        remember: Stores that preference; None where nothing is remembered, and no notes are shown.
    """

    def __init__(self, stored: str, remember: Callable[[str], None] | None) -> None:
        self._seen = set(TEXTS) & set(stored.split(","))
        self._remember = remember
        self._shown_at_s = 0.0
        self.is_off = stored == OFF
        self.note: Note | None = None

    def follow(self, run: RunState, now_s: float) -> Note | None:
        """Return the note to show for a run at this time on the caller's clock; an untrue one is closed."""
        if self.is_off or self._remember is None:
            return None
        if self.note is not None:
            self.note = note_of(run, self.note.name)
        if self.note is None or now_s - self._shown_at_s >= MIN_SHOWN_S:
            found = next_note(run, self._seen)
            if found is not None:
                self.note, self._shown_at_s = found, now_s
                self._seen.add(found.name)
                self._store()
        return self.note

    def close(self) -> None:
        """Close the note that is shown."""
        self.note = None

    def switch(self) -> None:
        """Switch the notes off for good, or on again, all of them."""
        self.is_off, self.note = not self.is_off, None
        if not self.is_off:
            self._seen.clear()
        self._store()

    def _store(self) -> None:
        if self._remember is not None:
            shown = ",".join(name for name in TEXTS if name in self._seen)
            self._remember(OFF if self.is_off else shown)
