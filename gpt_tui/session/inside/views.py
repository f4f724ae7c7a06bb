"""The views of `gpt-tui inspect`: each computes with `gpt_core.interpret` and returns a `View`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_core import interpret
from gpt_core.errors import ConfigError
from gpt_core.generation.generator import prompt_bytes
from gpt_core.interpret.ablation import AblationKind
from gpt_core.model.parameters import Parameters
from gpt_core.training.model_stats import MIN_SEQ_LEN
from gpt_tui.session.inside.predictions import Alternative, token_predictions
from gpt_tui.session.inside.subject import Subject, UnavailableViewError
from gpt_tui.session.inside.view import Cell, Column, Heatmap, Table, View
from gpt_tui.shared.formatting import counted, fixed, integer, part_name, percent, place_name, probability, scientific
from gpt_tui.shared.ramp import MAX_BITS
from gpt_tui.shared.spans import shortened

TOP_SHOWN, TOP_IN_DATA = 3, 8  # alternatives per position
BAR_CELLS = 20
POSITION, TOKEN = Column("position", is_number=True, is_label=True), Column("token", is_label=True)


@dataclass(frozen=True)
class ViewOptions:
    """Options of the views.

    Attributes:
        layer: Layer of the view `attention`; None for all.
        head: Head of that layer; None for all.
        next_text: Text that begins with the token of the view `attribution`; None for the most probable token.
        ablation: Replace the output of ablated parts by zero or by its mean.
        with_pictures: Add pictures of the attention of all heads.
    """

    layer: int | None = None
    head: int | None = None
    next_text: str | None = None
    ablation: AblationKind = "zero"
    with_pictures: bool = False


# ---- predictions


def tokens_view(subject: Subject, _: ViewOptions) -> View:
    """Return how surprising each token is after those before it, and what the model expected in its place."""
    found = token_predictions(subject, TOP_IN_DATA)
    likely = [[option_data(option) for option in options] for options in found.expected]
    levels = [None, *(float(value) / MAX_BITS for value in found.bits)]
    names = ("bits", "rank", "entropy")
    columns = [POSITION, TOKEN, *(Column(name, True) for name in names), Column("most probable here")]
    rows, data = [[number_cell(0), Cell(found.names[0])] + [Cell("–")] * 4], []
    for t, value in enumerate(found.bits):
        cells = [Cell(fixed(value, 2), levels[t + 1]), Cell(integer(found.ranks[t])), Cell(fixed(found.entropy[t], 2))]
        rows.append([number_cell(t + 1), Cell(found.names[t + 1]), *cells, Cell(joined(likely[t]))])
    rows.append([number_cell(len(found.ids)), Cell("(next)"), Cell("–"), Cell("–"), Cell(fixed(found.entropy[-1], 2)),
                 Cell(joined(likely[-1]))])  # fmt: skip
    for t, token in enumerate(found.ids):
        seen = {} if t == 0 else {
            "bits": float(found.bits[t - 1]), "rank": int(found.ranks[t - 1]),
            "entropy_bits": float(found.entropy[t - 1]), "most_probable": likely[t - 1],
        }  # fmt: skip
        data.append({"position": t, "id": token, "text": found.names[t], **seen})
    lines = [f"{counted(len(found.bits), 'token')}, {bits_per_token(found.bits)}"]
    if len(found.bits):  # of the same tokens, without what follows the text
        lines[0] += f"; entropy {fixed(found.entropy[:-1].mean(), 2)} bits on average"
    if found.end_note:
        lines.append(f"note: {found.end_note}")
    passage = [Cell(text, level) for text, level in zip(found.names, levels, strict=True)]
    legend = [
        Cell(f" {value:g}{'+' if value == MAX_BITS else ''} ", value / MAX_BITS) for value in (0, 1, 2, 4, 6, 8, 10, 12)
    ]
    next_data = {"entropy_bits": float(found.entropy[-1]), "most_probable": likely[-1]}
    return View("tokens: surprise in bits, -log2 p", lines, passage, legend, tables=[Table(columns, rows)],
                data={"tokens": data, "next": next_data})  # fmt: skip


def bits_per_token(bits: NDArray[np.float32]) -> str:
    """Return the mean surprise as text."""
    return f"{fixed(float(bits.mean()), 2)} bits per token" if len(bits) else "no token with a prediction"


def lens_view(subject: Subject, _: ViewOptions) -> View:
    """Return the most probable next token after each attention and each MLP."""
    lens = interpret.logit_lens(subject.gpt, subject.batch, TOP_SHOWN)
    columns = [POSITION, TOKEN, *(Column(place_name(place)) for place in lens.places)]
    rows, data = [], []
    for t, token in enumerate(subject.ids):
        best = [(subject.text(ids[0]), float(p[0])) for ids, p in
                zip(lens.ids[:, 0, t], lens.probabilities[:, 0, t], strict=True)]  # fmt: skip
        cells = [Cell(f"{shortened(text, 9)} {p:.0%}", p) for text, p in best]
        rows.append([number_cell(t), Cell(subject.text(token)), *cells])
        places = {
            place: top_tokens(subject, lens.ids[number, 0, t], lens.probabilities[number, 0, t])
            for number, place in enumerate(lens.places)
        }
        data.append({"position": t, "id": int(token), "text": subject.text(token), "places": places})
    lines = ["most probable next token, and its probability, if the model ended after each attention and MLP"]
    if note := subject.end_note():
        lines.append(f"note: {note}")
    return View("lens: predictions layer by layer", lines, tables=[Table(columns, rows)], data={"positions": data})


# ---- attention and heads


def attention_view(subject: Subject, options: ViewOptions) -> View:
    """Return where each head's attention goes from the last token, or all attention of one head."""
    shape = subject.gpt.shape
    check_number("--layer", options.layer, shape.layers)
    check_number("--head", options.head, shape.num_heads)
    if options.head is not None and options.layer is None:
        raise ConfigError("got --head without --layer, expected both for one head")
    subject.gpt.forward(subject.batch)
    if options.layer is not None and options.head is not None:
        return one_head_view(subject, options.layer, options.head)
    layers = range(shape.layers) if options.layer is None else [options.layer]
    columns = [Column("layer", True, True), Column("head", True, True), Column("from the last token to")]
    rows, data, heatmaps = [], [], []
    for layer in layers:
        attention = interpret.attention(subject.gpt, layers=[layer])[0, 0]  # (H, T, T)
        for head, last in enumerate(attention[:, -1]):
            order = np.argsort(-last, kind="stable")[: 2 * TOP_SHOWN]
            goes_to = [f"{subject.text(subject.ids[t])}@{t} {last[t]:.0%}" for t in order]
            rows.append([number_cell(layer), number_cell(head), Cell("  ".join(goes_to))])
            if options.with_pictures:
                heatmaps.append(Heatmap(f"layer {layer} head {head}", attention[head]))
            found = {"layer": layer, "head": head, "from_last": rounded(last)}
            data.append(found if options.layer is None else found | {"probabilities": rounded(attention[head])})
    lines = [
        "attention of each head from the last token: token@position and its share",
        "pictures: a row per token, a column per token that it attends to" if options.with_pictures
        else "--layer N --head N shows the attention of all tokens for one head",
    ]  # fmt: skip
    found = {"tokens": token_data(subject), "heads": data}
    return View("attention", lines, heatmaps=heatmaps, tables=[Table(columns, rows)], data=found)


def one_head_view(subject: Subject, layer: int, head: int) -> View:
    """Return the attention of one head: a row per token, a column per token that it attends to."""
    P = interpret.attention(subject.gpt, layers=[layer])[0, 0, head]  # (T, T)
    columns = [POSITION, TOKEN, *(Column(shortened(f"{t} {text}", 8), True) for t, text in enumerate(subject.texts()))]
    rows = [
        [number_cell(t), Cell(subject.text(subject.ids[t])),
         *(Cell(f"{p:.0%}" if s <= t else "", float(p) if s <= t else None) for s, p in enumerate(row))]
        for t, row in enumerate(P)
    ]  # fmt: skip
    passage = [Cell(text, float(p)) for text, p in zip(subject.texts(), P[-1], strict=True)]
    legend = [Cell(f" {value:.0%} ", value) for value in (0, 0.25, 0.5, 0.75, 1)]
    found = {"layer": layer, "head": head, "probabilities": rounded(P)}
    lines = ["a row per token: the share of its attention to each token; colors of the text: those of the last row"]
    return View(
        f"attention of layer {layer}, head {head}", lines, passage, legend, [Heatmap("row: from, column: to", P)],
        [Table(columns, rows)], {"tokens": token_data(subject), "heads": [found]},
    )  # fmt: skip


def heads_view(subject: Subject, _: ViewOptions) -> View:
    """Return the scores of all heads."""
    subject.require_two("heads")
    if subject.gpt.shape.seq_len < MIN_SEQ_LEN:
        raise UnavailableViewError(f"the view heads needs a model with a context of at least {MIN_SEQ_LEN} tokens")
    repeated = subject.repeated()
    scores = interpret.head_scores(subject.gpt, subject.batch, repeated)
    names = (name.replace("_", " ") for name in scores._fields)
    columns = [Column("layer", True, True), Column("head", True, True), *(Column(name, True) for name in names)]
    rows, data = [], []
    for layer, head in np.ndindex(*scores.induction.shape):
        values = {name: float(array[layer, head]) for name, array in scores._asdict().items()}
        cells = (score_cell(name, value) for name, value in values.items())
        rows.append([number_cell(layer), number_cell(head), *cells])
        data.append({"layer": layer, "head": head, **values})
    lines = [
        "share of attention on the token before and on the first token of this text, and its entropy",
        "induction: share on the token that followed the present one earlier, "
        f"in {len(repeated)} random sequences of {repeated.shape[1] // 2} tokens, each repeated",
    ]
    return View("heads", lines, tables=[Table(columns, rows)], data={"heads": data})


# ---- what the prediction depends on


def ablation_view(subject: Subject, options: ViewOptions) -> View:
    """Return the change of the loss of the text without each head, MLP and block."""
    subject.require_two("ablation")
    parts = interpret.all_parts(subject.gpt.shape)
    effects = []
    for effect in interpret.ablations(subject.gpt, *subject.inputs_and_targets(), parts, options.ablation):
        effects.append(effect)
        subject.progress("ablation", len(effects) / len(parts))
    intact = effects[0].loss - effects[0].change
    effects.sort(key=lambda effect: -effect.change)
    largest = max((abs(effect.change) for effect in effects), default=0.0) or 1.0
    columns = [Column("without", is_label=True), Column("loss", True), Column("change", True), Column("")]
    rows = [
        [Cell(part_name(effect.part)), Cell(fixed(effect.loss)),
         Cell(f"{effect.change:+.3f}", abs(effect.change) / largest), Cell(signed_bar(effect.change / largest))]
        for effect in effects
    ]  # fmt: skip
    data = [{"part": effect.part.name, "loss": effect.loss, "change": effect.change} for effect in effects]
    replaced = {"zero": "0", "mean": "its mean over the text"}[options.ablation]
    line = f"loss of this text in nats per token: {fixed(intact)}; the output of each part in turn is set to {replaced}"
    return View("ablation", [line], tables=[Table(columns, rows)],
                data={"loss": intact, "ablation": options.ablation, "parts": data})  # fmt: skip


def attribution_view(subject: Subject, options: ViewOptions) -> View:
    """Return how much each token adds to the log-probability of the next one."""
    found = interpret.next_tokens(subject.gpt, subject.batch, 1)
    chosen = int(found.ids[0, -1, 0]) if options.next_text is None else first_token(subject, options.next_text)
    log_p = -float(interpret.token_losses(subject.gpt, np.append(subject.batch, [[np.int32(chosen)]], axis=1))[0, -1])
    scores = interpret.attribution(subject.gpt, subject.batch, np.array([chosen], np.int32))[0]
    largest = float(np.abs(scores).max()) or 1.0
    levels = [abs(float(score)) / largest for score in scores]
    rows = [
        [number_cell(t), Cell(text), Cell(f"{score:+.3f}", level), Cell(signed_bar(float(score) / largest))]
        for t, (text, score, level) in enumerate(zip(subject.texts(), scores, levels, strict=True))
    ]
    data = [token | {"attribution": float(score)} for token, score in zip(token_data(subject), scores, strict=True)]
    lines = [
        f"next token {subject.text(chosen)}, probability {probability(math.exp(log_p), 2)}",
        "gradient times input of its log-probability; above 0, a token makes it more probable",
    ]
    passage = [Cell(text, level) for text, level in zip(subject.texts(), levels, strict=True)]
    next_data = {"id": chosen, "text": subject.text(chosen), "probability": math.exp(log_p)}
    columns = [POSITION, TOKEN, Column("attribution", True), Column("")]
    return View("attribution", lines, passage, tables=[Table(columns, rows)], data={"next": next_data, "tokens": data})


def first_token(subject: Subject, text: str) -> int:
    """Return the first token of a text. Raises ConfigError if it has none."""
    ids = subject.tokenizer.encode(prompt_bytes(text))
    if not len(ids):
        raise ConfigError("--next: got no text, expected text that begins with the next token")
    return int(ids[0])


# ---- weights


def neighbors_view(subject: Subject, _: ViewOptions) -> View:
    """Return the tokens with the nearest embeddings for each token of the text."""
    asked = np.array(list(dict.fromkeys(subject.ids.tolist())), np.int32)  # each token once
    found = interpret.neighbors(subject.gpt.parameters, asked, TOP_IN_DATA, subject.used_ids())
    columns = [Column("token", is_label=True), Column("nearest tokens, with the cosine of their embeddings")]
    rows, data = [], []
    for token, ids, cosines in zip(asked, found.ids, found.cosines, strict=True):
        near = [{"id": int(i), "text": subject.text(i), "cosine": float(c)} for i, c in zip(ids, cosines, strict=True)]
        rows.append([Cell(subject.text(token)), Cell("  ".join(f"{n['text']} {n['cosine']:.2f}" for n in near))])
        data.append({"id": int(token), "text": subject.text(token), "neighbors": near})
    line = "cosine 1: the same direction, 0: unrelated; tokens that are used alike have similar embeddings"
    return View("neighbors", [line], tables=[Table(columns, rows)], data={"tokens": data})


def health_view(subject: Subject, _: ViewOptions) -> View:
    """Return the norm of each tensor, that of its gradient on the text, and the MLP units that never fire."""
    subject.require_two("health")
    gpt, gradients = subject.gpt, Parameters(subject.gpt.shape)
    inputs, targets = subject.inputs_and_targets()
    gpt.loss_and_gradients(inputs, targets, gradients, 1 / targets.size)
    dead = interpret.dead_units(gpt)
    stats = interpret.weight_stats(gpt.parameters, gradients)
    columns = [Column("tensor", is_label=True), *(Column(name, True) for name in ("values", "norm", "gradient norm"))]
    rows = [
        [Cell(row.name), Cell(integer(row.size)), Cell(fixed(row.norm)), Cell(scientific(row.gradient_norm or 0.0))]
        for row in stats
    ]
    units = [[number_cell(layer), Cell(percent(float(share)), float(share))] for layer, share in enumerate(dead)]
    data = {
        "tensors": [{"name": row.name, "values": row.size, "norm": row.norm, "gradient_norm": row.gradient_norm}
                    for row in stats],
        "dead_units": [float(share) for share in dead],
    }  # fmt: skip
    lines = [
        "gradient norm: of the loss of this text; units that never fire: MLP units not positive for any token of it"
    ]
    layers = Table([Column("layer", True, True), Column("units that never fire", True)], units)
    return View("health", lines, tables=[Table(columns, rows), layers], data=data)


# ---- parts of views


def top_tokens(subject: Subject, ids: Iterable[int], probabilities: Iterable[float]) -> list[dict[str, Any]]:
    """Return tokens with their probabilities as data."""
    return [
        {"id": int(token), "text": subject.text(token), "probability": float(p)}
        for token, p in zip(ids, probabilities, strict=True)
    ]


def option_data(option: Alternative) -> dict[str, Any]:
    """Return a token with its probability as data."""
    return {"id": option.id, "text": option.name, "probability": option.probability}


def joined(tokens: Sequence[dict[str, Any]]) -> str:
    """Return the first few of such tokens as text."""
    return "  ".join(f"{token['text']} {token['probability']:.0%}" for token in tokens[:TOP_SHOWN])


def token_data(subject: Subject) -> list[dict[str, Any]]:
    """Return the tokens of the text as data."""
    return [{"position": t, "id": int(id), "text": subject.text(id)} for t, id in enumerate(subject.ids)]


def number_cell(number: int) -> Cell:
    """Return the cell of a position, a layer or a head."""
    return Cell(str(number))


def score_cell(name: str, value: float) -> Cell:
    """Return the cell of a score of a head: an entropy in nats, a share in percent."""
    return Cell(f"{fixed(value, 2)} nats") if name == "entropy" else Cell(percent(value), value)


def signed_bar(ratio: float) -> str:
    """Return a bar for a ratio from -1 to 1: to the left of the middle below 0, to the right above it."""
    half = BAR_CELLS // 2
    cells = min(half, round(abs(ratio) * half)) if math.isfinite(ratio) else 0
    return f"{'█' * cells if ratio < 0 else '':>{half}}│{'█' * cells if ratio > 0 else '':<{half}}"


def rounded(values: NDArray[np.float32]) -> Any:
    """Return an array as lists of numbers with six decimals."""
    return np.round(values.astype(np.float64), 6).tolist()


def check_number(option: str, number: int | None, count: int) -> None:
    """Raise ConfigError unless the number is None or from 0 to `count` - 1."""
    if number is not None and not 0 <= number < count:
        raise ConfigError(f"{option}: got {number}, expected a whole number from 0 to {count - 1}")


VIEWS: dict[str, Callable[[Subject, ViewOptions], View]] = {
    "tokens": tokens_view, "lens": lens_view, "attention": attention_view, "heads": heads_view, "health": health_view,
    "ablation": ablation_view, "neighbors": neighbors_view, "attribution": attribution_view,
}  # fmt: skip
