"""Ablation: the model without some of its heads, MLPs or blocks.

What a part adds to the residual stream is linear in the rows of a projection, so removing it is a change of weights:
rows of `c_proj.weight` and, for all of a layer's attention or MLP, of its bias. The changed weights are an ordinary
model, which can be evaluated and can generate text. For mean ablation, a model without biases gets some: they are 0
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from gpt_core.config.settings import ModelShape
from gpt_core.errors import shown
from gpt_core.interpret.activations import run
from gpt_core.kernels.arrays import Array, as_ids, not_finite_is_expected, widened
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters
from gpt_core.progress import Progress, ignore_progress

PROJECTIONS = {"head": ("attn",), "attn": ("attn",), "mlp": ("mlp",), "block": ("attn", "mlp")}
"""Sublayers whose projections change if a part of a kind is ablated."""

PartKind = Literal["head", "attn", "mlp", "block"]
AblationKind = Literal["zero", "mean"]


class Part(NamedTuple):
    """Part of a model that can be ablated.

    Attributes:
        kind: One attention head, all attention, the MLP, or both of a block.
        layer: Number of the block.
        head: Number of the head; -1 for other kinds.
    """

    kind: PartKind
    layer: int
    head: int = -1

    @property
    def name(self) -> str:
        """Name in the style of parameters: `h.0.attn.head.2`, `h.0.attn`, `h.0.mlp` or `h.0`."""
        ends = {"head": f".attn.head.{self.head}", "attn": ".attn", "mlp": ".mlp", "block": ""}
        return f"h.{self.layer}{ends[self.kind]}"


class MeanOutputs(NamedTuple):
    """Mean inputs of the two projections of each block over the tokens of a batch.

    Attributes:
        heads: Outputs of all heads side by side (L, C).
        hidden: Hidden units after the activation (L, F).
    """

    heads: Array
    hidden: Array


class Ablation(NamedTuple):
    """Effect of ablating one part.

    Attributes:
        part: The part.
        loss: Mean loss without it, in nats per token.
        change: Difference to the loss of the intact model; above 0 if the part is of use.
    """

    part: Part
    loss: float
    change: float


def all_parts(shape: ModelShape) -> list[Part]:
    """Return every head, MLP and block of a model, layer by layer."""
    return [
        part
        for layer in range(shape.layers)
        for part in (
            *(Part("head", layer, head) for head in range(shape.num_heads)), Part("mlp", layer), Part("block", layer),
        )
    ]  # fmt: skip


@not_finite_is_expected
def mean_outputs(model: GPT, tokens: ArrayLike) -> MeanOutputs:
    """Return the means over a batch that `ablate` puts in the place of a part.

    Args:
        model: The intact model. Its buffers are overwritten.
        tokens: Ids (B, T), such as some thousand tokens of the eval text.

    Raises:
        ValueError: The tokens do not fit the model.
    """
    run(model, tokens)
    blocks = model.transformer.blocks
    return MeanOutputs(
        np.stack([widened(block.attn.attn_out).mean(axis=0) for block in blocks]),
        np.stack([widened(block.mlp.activated()).mean(axis=0) for block in blocks]),
    )


def ablate(parameters: Parameters, parts: Iterable[Part], means: MeanOutputs | None = None) -> Parameters:
    """Return a copy of the weights without the output of some parts.

    Zero ablation sets what a part adds to the residual stream to 0 (Michel et al. 2019, "Are Sixteen Heads Really
    Better than One?"): y = sum of z_h W_h over the heads that remain, plus the bias, which belongs to all of them.
    Without all attention or the MLP of a block, the bias is 0, too. Mean ablation replaces it by its mean over a batch
    (Wang et al. 2022, "Interpretability in the Wild"): mean(z_h) W_h is added to the bias.

    Args:
        parameters: The weights, which are not changed.
        parts: Parts to ablate.
        means: Result of `mean_outputs` for mean ablation; None for zero ablation.

    Raises:
        ValueError: The model has no such part.
    """
    changed = parameters.copy() if means is None else _with_biases(parameters)
    for part in parts:
        _remove(changed, part, means)
    return changed


def ablations(
    model: GPT, tokens: ArrayLike, targets: ArrayLike, parts: Sequence[Part] | None = None, kind: AblationKind = "zero"
) -> Iterator[Ablation]:
    """Yield the effect of each part alone on the loss of a batch, one forward pass per part.

    Args:
        model: The model. Its weights are copied once, its buffers are overwritten.
        tokens: Ids (B, T).
        targets: Ids (B, T) that follow each token; -1 for none.
        parts: Parts to ablate one after another; None for `all_parts`.
        kind: Zero or mean ablation (see `ablate`); means are taken over `tokens`.

    Raises:
        ValueError: The arrays do not fit the model, no token has a target, or there is no such part or kind.
    """
    if kind not in get_args(AblationKind):
        raise ValueError(f"kind: got {shown(kind)}, expected one of {', '.join(get_args(AblationKind))}")
    intact = _mean_loss(model, tokens, targets)
    means = mean_outputs(model, tokens) if kind == "mean" else None
    unchanged = model.parameters if means is None else _with_biases(model.parameters)
    working = GPT(unchanged.copy(), model.products)
    for part in all_parts(model.shape) if parts is None else parts:
        _remove(working.parameters, part, means)
        loss = _mean_loss(working, tokens, targets)
        for name in _changed_names(part):
            if name in unchanged.tensors:
                np.copyto(working.parameters[name], unchanged[name])
        yield Ablation(part, loss, loss - intact)


def joint_ablation(
    model: GPT, tokens: ArrayLike, targets: ArrayLike, parts: Sequence[Part], progress: Progress = ignore_progress
) -> float:  # fmt: skip
    """Return the change of the mean loss of a batch without all of some parts at once (zero ablation).

    Args:
        model: The model. Its weights are copied, its buffers are overwritten.
        tokens: Ids (B, T).
        targets: Ids (B, T) that follow each token; -1 for none.
        parts: Parts to ablate together.
        progress: Called before each of the two evaluations; may raise to end the work.

    Raises:
        ValueError: The arrays do not fit the model, no token has a target, or the model has no such part.
    """
    progress("measuring the eval loss", 0.0)
    changed = _mean_loss(GPT(ablate(model.parameters, parts), model.products), tokens, targets)
    progress("measuring the eval loss", 0.5)
    return changed - _mean_loss(model, tokens, targets)


def _mean_loss(model: GPT, tokens: ArrayLike, targets: ArrayLike) -> float:
    """Return the mean loss over the targets. Raises ValueError if there is none."""
    sums = model.evaluate(as_ids(tokens), as_ids(targets, "targets"))
    if not sums.targets:
        raise ValueError("targets: got none, expected at least one id that is not -1")
    return sums.loss_sum / sums.targets


def _changed_names(part: Part) -> list[str]:
    """Return the names of the tensors that ablating a part changes."""
    return [f"h.{part.layer}.{layer}.c_proj.{kind}" for layer in PROJECTIONS[part.kind] for kind in ("weight", "bias")]


def _with_biases(parameters: Parameters) -> Parameters:
    """Return a copy of the weights; biases that the model lacks are 0."""
    changed = Parameters(msgspec.structs.replace(parameters.shape, bias=True))
    for name, tensor in parameters.tensors.items():
        changed[name][...] = tensor
    return changed


@not_finite_is_expected
def _remove(parameters: Parameters, part: Part, means: MeanOutputs | None) -> None:
    """Set the output of a part to 0, or to its mean, in these weights. Raises ValueError for an unknown part."""
    shape = parameters.shape
    if not isinstance(part, Part):
        raise ValueError(f"parts: got {shown(part)}, expected a Part each, as `all_parts` returns them")
    if part.kind not in PROJECTIONS:
        raise ValueError(f"part: got the kind {shown(part.kind)}, expected one of {', '.join(PROJECTIONS)}")
    if not 0 <= part.layer < shape.layers or (part.kind == "head" and not 0 <= part.head < shape.num_heads):
        raise ValueError(f"part: got {part.name}, expected layers 0 to {shape.layers - 1} and heads 0 to "
                         f"{shape.num_heads - 1}")  # fmt: skip
    prefix, D = f"h.{part.layer}", shape.head_size
    if part.kind == "head":
        rows = slice(part.head * D, (part.head + 1) * D)
        weight = parameters[f"{prefix}.attn.c_proj.weight"]
        if means is not None:
            bias = parameters[f"{prefix}.attn.c_proj.bias"]
            bias += means.heads[part.layer, rows] @ weight[rows]
        weight[rows] = 0.0
    if part.kind in ("attn", "block"):
        _remove_projection(parameters, f"{prefix}.attn.c_proj", None if means is None else means.heads[part.layer])
    if part.kind in ("mlp", "block"):
        _remove_projection(parameters, f"{prefix}.mlp.c_proj", None if means is None else means.hidden[part.layer])


def _remove_projection(parameters: Parameters, name: str, mean: Array | None) -> None:
    """Make the output of a projection 0 for any input, or what it is for the mean input."""
    weight, bias = parameters[f"{name}.weight"], parameters.tensors.get(f"{name}.bias")
    if bias is not None and mean is not None:
        bias += mean @ weight
    elif bias is not None:
        bias.fill(0.0)
    weight.fill(0.0)
