"""FLOPs of a training step and of a prompt, counted from the layers and not measured.

Matrix products count; norms, activations, softmax and the optimizer do not: they are about one percent of the
arithmetic, though not of the time. Work that the kernels do twice (recomputation in the backward pass) counts once.
"""

from __future__ import annotations

from collections.abc import Set

from gpt_core.config.settings import ModelShape
from gpt_core.model.layers.buffers import BatchShape
from gpt_core.model.layers.layer import Flops
from gpt_core.model.layers.transformer import Transformer


def step_flops(shape: ModelShape, batch: int, time: int, frozen: Set[str] = frozenset()) -> Flops:
    """Return the FLOPs of one training step on (B, T) tokens: three times those of the forward pass.

    For each product y = x W the backward pass makes two of the same size, d_x = d_y Wᵀ and d_W = xᵀ d_y. Below the
    lowest layer with parameters that are not `frozen` it makes none, and none for d_W of a frozen token embedding.
    """
    transformer, size = Transformer(shape), BatchShape(batch, time)
    transformer.freeze(frozen)
    head = transformer.head.forward_flops(size).times(2 if transformer.head.is_trained else 1)
    blocks = (block.forward_flops(size).times(2) for block in transformer.blocks[transformer.lowest_block :])
    return Flops.sum_of([transformer.forward_flops(size), head, *blocks])


def prefill_flops(shape: ModelShape, tokens: int) -> Flops:
    """Return the FLOPs of reading a prompt into an empty cache, up to the logits of its last token.

    The last block needs the keys and values of all tokens, and everything else for the last token alone.
    """
    transformer, prompt = Transformer(shape), BatchShape(1, tokens)
    *others, last = transformer.blocks
    return Flops.sum_of(
        [
            *(block.forward_flops(prompt) for block in others),
            last.forward_flops(prompt, outputs=1),
            transformer.head.forward_flops(prompt, outputs=1),
        ]
    )
