"""Results of the Inside tab's views with fixed numbers, and a small model that can be looked at."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np

from gpt_core.checkpoints.store import CheckpointStore
from gpt_core.config.settings import ModelShape, Settings
from gpt_core.formats.checkpoint import Checkpoint, TrainingState
from gpt_core.interpret import Ablation, all_parts
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import initial_parameters
from gpt_core.tokenizers.pieces import PieceTokenizer
from gpt_core.training import events as ev
from gpt_tui.session.inside.predictions import Alternative, TokenPredictions
from gpt_tui.session.inside.subject import Subject
from gpt_tui.session.run_events import advance_all
from gpt_tui.session.run_state import RunState
from gpt_tui.tabs.inside.views.attention import AttentionResult
from gpt_tui.tabs.inside.views.history import StatsHistory
from gpt_tui.tabs.inside.views.knock_out import KnockOut
from gpt_tui.tabs.inside.views.lens import LensResult
from gpt_tui.tabs.inside.views.neighbors import MapToken, Near, Neighborhood
from gpt_tui.tabs.inside.views.pixels import pooled
from tests.tui.samples import started, step

TEXT = "It was a dark night, and the sea was calm and the sea was dark and the night was calm."
SHAPE = ModelShape(d_model=16, hidden_size=32, vocab_size=300, num_heads=2, seq_len=48, layers=3)
WORDS = ["It", "␣was", "␣a", "␣dark", "␣n", "ight", ",", "␣and", "␣the", "␣sea", "\\n", "was", "␣calm", "."]


def small_tokenizer(vocab_size: int = SHAPE.vocab_size) -> PieceTokenizer:
    """Return a tokenizer of the text."""
    return PieceTokenizer.train([TEXT.encode()], vocab_size)


def small_subject(text: str = TEXT) -> Subject:
    """Return a model with random weights, and a text."""
    tokenizer = small_tokenizer()
    ids = np.array([tokenizer.BOS, *tokenizer.encode(text.encode()).tolist()], np.int32)[: SHAPE.seq_len]
    return Subject(GPT(initial_parameters(SHAPE, 3)), tokenizer, ids, len(ids))


def save_model(folder: Path, kind: str = "latest", seed: int = 3, shape: ModelShape = SHAPE) -> Path:
    """Save a checkpoint with random weights, and return its path."""
    fields = {name: getattr(shape, name) for name in shape.__struct_fields__}
    settings = msgspec.structs.replace(Settings(), **fields, models_dir=str(folder))
    parameters = initial_parameters(shape, seed)
    with CheckpointStore(folder) as store:
        store.prepare("a", new_run=False)
        state = TrainingState(run_id="a", step=100 + seed)
        state_tensors = {"adam_m": parameters, "adam_v": parameters}
        tokenizer = small_tokenizer(shape.vocab_size).to_bytes()
        store.save(kind, Checkpoint(settings, "", state, tokenizer, "0" * 64, parameters, state_tensors))
    return folder / {"latest": "ckpt_latest.safetensors", "best": "best_model.safetensors"}[kind]


def names(count: int) -> list[str]:
    """Return tokens."""
    return ["<bos>", *(WORDS[number % len(WORDS)] for number in range(count - 1))]


def texts_of(names: list[str]) -> tuple[str, ...]:
    """Return tokens for reading."""
    return tuple(name.replace("␣", " ").replace("\\n", "\n") for name in names)


def alternatives_of(number: int) -> list[Alternative]:
    """Return eight tokens with falling probabilities."""
    return [
        Alternative(
            (number + row) % len(WORDS), WORDS[(number + row) % len(WORDS)],
            WORDS[(number + row) % len(WORDS)].replace("␣", " ").encode(), 0.5 / (1 + row) ** 2,
        )
        for row in range(8)
    ]  # fmt: skip


def fixed_tokens(count: int = 60) -> TokenPredictions:
    """Return predictions with fixed numbers."""
    steps = np.arange(count - 1)
    shown = names(count)
    ids = [-1, *(number % len(WORDS) for number in range(count - 1))]
    return TokenPredictions(
        ids, shown, texts_of(shown),
        [name.replace("␣", " ").encode() for name in shown], (steps * 7 % 13).astype(np.float32),
        (1 + steps * 5 % 40).astype(np.int32), (np.arange(count) % 6 + 0.5).astype(np.float32),
        [alternatives_of(number) for number in range(count)], 3072,
    )  # fmt: skip


def fixed_lens(first: int = 0, columns: int = 7, layers: int = 4) -> LensResult:
    """Return predictions at each place with fixed numbers."""
    places = ["embedding", *(f"{part} {layer}" for layer in range(layers) for part in ("attn", "mlp"))]
    predictions = [
        [
            [
                option._replace(probability=(place + 1) / len(places) * option.probability * 2)
                for option in alternatives_of(column + (place < 5))
            ]
            for column in range(columns)
        ]
        for place in range(len(places))
    ]
    return LensResult(first, names(first + columns + 1)[first:], places, predictions)


def fixed_attention(tokens: int = 60, layers: int = 4, heads: int = 4, side: int = 6) -> AttentionResult:
    """Return attention with fixed numbers: each head at a distance of its own, and some at the first token."""
    P = np.zeros((layers, heads, tokens, tokens), np.float32)
    for layer in range(layers):
        for head in range(heads):
            for row in range(tokens):
                P[layer, head, row, 0] += 0.25
                P[layer, head, row, max(0, row - layer - 2 * head)] += 0.75
    thumbnails = np.sqrt(np.stack([np.stack([pooled(head, side) for head in layer]) for layer in P]))
    return AttentionResult(names(tokens), texts_of(names(tokens)), P.astype(np.float16), thumbnails)


def bits(probability: float) -> float:
    """Return the surprise of a probability."""
    return -math.log2(probability)


HISTORY_LAYERS, HISTORY_HEADS = 2, 3
HISTORY_TENSORS = ("wte.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.bias", "h.1.mlp.c_fc.bias")


def history_events(count: int = 10, every: int = 100) -> list[ev.AnyEvent]:
    """Return a run in which head 2 of layer 1 becomes an induction head at the seventh evaluation."""
    found: list[ev.AnyEvent] = [started()]
    for number in range(1, count + 1):
        at = number * every
        found += [step(each, 3.0 if number < 7 else 1.0) for each in range(at - every + 1, at + 1)]
        induction = ((0.02,) * HISTORY_HEADS, (0.02, 0.02, 0.75 if number >= 7 else 0.03))
        even = ((0.25,) * HISTORY_HEADS,) * HISTORY_LAYERS
        entropy = ((2.0,) * HISTORY_HEADS, (2.0, 2.0, 1.0))
        found.append(ev.HeadsScored(at, even, even, induction, entropy))
        norms, gradients, ratios = (10.0, 2.0, 0.1, 0.2), (0.5, 0.25, None, 0.1), (-3.0, -2.5, -1.5, None)
        found.append(ev.HealthMeasured(at, HISTORY_TENSORS, norms, gradients, ratios, (0.0, 0.625)))
        if number == 7:
            found.append(ev.InductionHeadAppeared(at, 1, 2, 0.75))
    return found


def fixed_history() -> StatsHistory:
    """Return the history of that run."""
    return StatsHistory(advance_all(RunState(), history_events()), 1000, False)


def fixed_knock_out(layers: int = 4, heads: int = 4, done: int | None = None) -> KnockOut:
    """Return effects of all parts of a model, or of the first of them."""
    parts = all_parts(ModelShape(d_model=8, hidden_size=8, vocab_size=300, num_heads=heads, seq_len=8, layers=layers))
    sizes = {"head": 0.05, "mlp": 0.8, "block": 1.5}
    changes = [sizes[part.kind] * ((number * 7) % 11 - 2) / 9 for number, part in enumerate(parts)]
    effects = [Ablation(part, 3.2 + change, change) for part, change in zip(parts, changes, strict=True)]
    return KnockOut(parts, effects[:done], 3.2, 4032, True)


def fixed_neighbors(count: int = 60) -> Neighborhood:
    """Return neighbors of each token of a text, and a map on two rings."""
    shown = names(count)
    ids = [shown.index(name) for name in shown]
    nearest = {number: tuple(Near(k, WORDS[k], 0.9 - 0.11 * k) for k in range(8) if k != number) for number in set(ids)}
    tokens = []
    for number in range(60):
        radius = 0.2 + number / 200
        x, y = (0.5 + radius * turn(2.4 * number) for turn in (math.cos, math.sin))
        tokens.append(MapToken(number, WORDS[number % len(WORDS)], x, y))
    return Neighborhood(ids, shown, nearest, tokens, 0.214)
