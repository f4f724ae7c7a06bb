"""Statistics of the model at evaluations: scores of its attention heads, and the health of its weights.

They are measured right after the step that an evaluation follows, on the eval text, with buffers of their own: training
computes the same bits with and without them. Gradients and update are those of the step, which stores a part of the
weights before its update; at the end of a round of local steps, both are measured before the exchange.

Heads and activations are those of the model that is evaluated: of a run with `ema`, the average. Norms and updates are
those of the weights that are trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpt_core import interpret
from gpt_core.formats.training_state import InductionHead
from gpt_core.interpret import HeadScores
from gpt_core.kernels.arrays import Array
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters
from gpt_core.model.precision import product_format
from gpt_core.text.data_loader import sequential_windows
from gpt_core.text.token_stream import TokenStream
from gpt_core.tokenizers import Tokenizer
from gpt_core.training import events as ev
from gpt_core.training.run import Run

INDUCTION_THRESHOLD = 0.4
"""Induction score from which a head counts as an induction head: a head that attends evenly has about 0.02."""

PROBE_TOKENS = 256  # of the eval text: one window of this length, or several shorter ones
REPEATED_TOKENS = 32  # of a random sequence that is repeated, at most
CANDIDATE_TOKENS = 16_384  # of the eval text, whose tokens the random sequences are drawn from
MAX_SAMPLED = 1 << 16  # values of a tensor whose update is measured
MIN_SEQ_LEN = 4  # the shortest context in which a sequence can repeat
MIN_TEXT = 3  # tokens of the shortest eval text in which a token has one before it
DECIMALS = 4


class ModelStats:
    """Measures the heads and the weights of a run. Without an eval text it measures nothing."""

    def __init__(self, run: Run, gradients: Parameters) -> None:
        """Create the statistics of a run, whose trainer leaves the gradients of each step in `gradients`."""
        self._run, self._gradients = run, gradients
        self._before: dict[str, Array] = {}
        self._gradient_norms: list[float | None] = []
        self._ratios: list[float | None] = []
        self._step = self._measured_step = -1
        self._inputs: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
        self._has_gradients = False

    @property
    def _is_on(self) -> bool:
        text, shape = self._run.texts.held_out, self._run.parameters.shape
        return self._run.is_reported and text is not None and len(text) >= MIN_TEXT and shape.seq_len >= MIN_SEQ_LEN

    def before_update(self, *, is_measured: bool) -> None:
        """Note that the gradients are those of the next step, and store a part of the weights if it is measured.

        Args:
            is_measured: An evaluation follows the step, or may follow it.
        """
        self._has_gradients = self._run.outer is None  # else they are overwritten at the end of the round
        if is_measured and self._is_on:
            self._before = {name: sampled(tensor).copy() for name, tensor in self._run.parameters.tensors.items()}

    def after_update(self) -> None:
        """Measure the gradients and the update of the step just taken, if an evaluation follows it."""
        if not self._before:
            return
        self._step = self._run.state.step
        self._gradient_norms = self._norms_of_gradients()
        self._ratios = [
            interpret.update_ratio(sampled(tensor), self._before[name])
            for name, tensor in self._run.parameters.tensors.items()
        ]
        self._before = {}

    def _norms_of_gradients(self) -> list[float | None]:
        return [found.gradient_norm for found in interpret.weight_stats(self._run.parameters, self._gradients)]

    def measure(self) -> Iterator[ev.AnyEvent]:
        """Yield the statistics of this step, unless it has them, and the first head that is an induction head."""
        state = self._run.state
        if not self._is_on or self._measured_step == state.step:
            return
        self._measured_step = state.step
        text, repeated = self._inputs = self._inputs or self._probes()
        gpt = GPT(self._run.evaluated, product_format(self._run.settings.precision))
        scores = interpret.head_scores(gpt, text, repeated)
        yield self._health(interpret.dead_units(gpt))
        yield heads_event(state.step, scores)
        if state.induction_head is None and (found := induction_head(state.step, scores)) is not None:
            state.induction_head = found
            yield ev.InductionHeadAppeared(found.step, found.layer, found.head, found.score)

    def _probes(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        text, shape = self._run.texts.held_out, self._run.parameters.shape
        assert text is not None
        candidates = used_ids(text, self._run.tokenizer)
        length = min(REPEATED_TOKENS, shape.seq_len // 2)
        return probe(text, shape.seq_len), interpret.repeated_tokens(candidates, length)

    def _health(self, dead_units: Array) -> ev.HealthMeasured:
        """Return the health of every tensor; without its gradients before the first step of a session."""
        stats = interpret.weight_stats(self._run.parameters)
        unknown: list[float | None] = [None] * len(stats)
        gradient_norms, ratios = self._gradient_norms, self._ratios
        if self._step != self._run.state.step:
            gradient_norms, ratios = self._norms_of_gradients() if self._has_gradients else unknown, unknown
        return ev.HealthMeasured(
            self._run.state.step,
            tuple(found.name for found in stats),
            tuple(logged(found.norm) for found in stats),
            tuple(logged(norm) for norm in gradient_norms),
            tuple(logged(ratio) for ratio in ratios),
            tuple(round(float(fraction), DECIMALS) for fraction in dead_units),
        )


def probe(text: TokenStream, seq_len: int) -> NDArray[np.int32]:
    """Return the first PROBE_TOKENS of a text, as windows (B, T) of at most a context; the last is not filled up."""
    T = min(PROBE_TOKENS, seq_len, len(text) - 1)
    tokens, _ = next(sequential_windows(text, T, min(max(1, PROBE_TOKENS // T), (len(text) - 1) // T)))
    return tokens


def used_ids(text: TokenStream, tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Return the ids that occur at the beginning of a text, without special tokens where there are others."""
    ids = np.unique(text.read(0, CANDIDATE_TOKENS))
    special = [tokenizer.PAD, tokenizer.BOS, tokenizer.EOS, tokenizer.UNK]
    return others if len(others := ids[~np.isin(ids, special)]) else ids


def sampled(tensor: Array) -> Array:
    """Return at most MAX_SAMPLED values at regular intervals, spread over rows and columns; a view."""
    step = -(-tensor.size // MAX_SAMPLED)
    while step > 1 and math.gcd(step, tensor.shape[-1]) > 1:
        step += 1
    return tensor.reshape(-1)[::step]


def induction_head(step: int, scores: HeadScores) -> InductionHead | None:
    """Return the head with the highest induction score, if that reaches INDUCTION_THRESHOLD."""
    layer, head = divmod(int(np.argmax(scores.induction)), scores.induction.shape[1])
    score = float(scores.induction[layer, head])
    return InductionHead(step, layer, head, round(score, DECIMALS)) if score >= INDUCTION_THRESHOLD else None


def heads_event(step: int, scores: HeadScores) -> ev.HeadsScored:
    """Return the event of scores (L, H)."""
    scored = {
        name: tuple(tuple(map(logged, row)) for row in array.tolist()) for name, array in scores._asdict().items()
    }
    return ev.HeadsScored(step, **scored)


def logged(value: float | None) -> float | None:
    """Return a value with five significant digits; None if it is not finite, which JSON cannot express."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None
