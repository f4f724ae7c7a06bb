"""The layers in the order of the forward pass: embedding, blocks, final norm, head.

By default they are those of GPT-2 (Radford et al. 2019). The settings of the group "architecture" choose others.

The parameter table, FLOPs and memory of the model are those of this layer.
"""

from __future__ import annotations

from collections.abc import Callable

from gpt_core.config.settings import ModelShape
from gpt_core.kernels.arrays import Activations, Array
from gpt_core.model.layers.block import Block, norm_layer
from gpt_core.model.layers.buffers import BatchShape, Buffer
from gpt_core.model.layers.embedding import Embedding
from gpt_core.model.layers.head import Head
from gpt_core.model.layers.layer import Ids, Layer, Tensors


class Transformer(Layer):
    """head(ln_f(blocks(embedding(tokens))))."""

    d_residual: Array
    """(N, C): gradient of the residual stream, from the last block's output back to the embedding"""
    d_x0: Array
    """(N, C): gradient of the embedding's output by the x0 shortcuts"""

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self.embedding = Embedding(shape)
        self.blocks = [Block(shape, number) for number in range(shape.layers)]
        self.ln_f = norm_layer(shape, "ln_f")
        self.head = Head(shape)
        super().__init__(self.embedding, *self.blocks, self.ln_f, self.head)

    def own_buffers(self, size: BatchShape) -> tuple[Buffer, ...]:
        """Return the gradient of the residual stream, and that of its start by the shortcuts."""
        d_residual = Buffer("d_residual", (size.rows, self._shape.d_model), "gradient")
        return (d_residual, d_residual._replace(name="d_x0")) if self._shape.x0_shortcut else (d_residual,)

    @property
    def lowest_block(self) -> int:
        """Number of the lowest block with a backward pass: it, or what is below it, has parameters to train."""
        if self.embedding.is_trained:
            return 0
        trained = (number for number, block in enumerate(self.blocks) if block.is_trained)
        return next(trained, len(self.blocks))

    def forward(self, tokens: Ids) -> Activations:
        """Return ln_f's output (N, C), the input of the head, for tokens (B, T)."""
        x = x0 = self.embedding.forward(tokens.reshape(-1), tokens.shape[1])
        for block in self.blocks:
            x = block.forward(x, x0)
        return self.ln_f.forward(x)

    def forward_backward(
        self,
        tokens: Ids,
        targets: Ids,
        gradients: Tensors,
        weight: float,
        layer_done: Callable[[int], None] | None = None,
    ) -> float:
        """Return the sum of the losses; add weight * d(sum of losses) / d(parameter) to `gradients`.

        The pass ends above the layers at the bottom that are frozen; gradients of other frozen parameters are computed.
        `layer_done` is called with the number of each block once the gradients of its parameters are complete.
        """
        loss_sum, d_ln_out = self.head.forward_backward(self.forward(tokens), targets.reshape(-1), gradients, weight)
        inputs = [self.embedding.out, *(block.out for block in self.blocks)]  # of each block, and of ln_f
        self.d_residual.fill(0.0)
        if self._shape.x0_shortcut:
            self.d_x0.fill(0.0)
        self.ln_f.backward(self.d_residual, d_ln_out, inputs.pop(), gradients)
        for number in reversed(range(self.lowest_block, len(self.blocks))):
            block = self.blocks[number]
            block.backward(self.d_residual, inputs.pop(), gradients)
            if block.x0_shortcut:
                block.x0_shortcut.backward(self.d_x0, self.d_residual, self.embedding.out, gradients)
            if layer_done is not None:
                layer_done(number)
        if self._shape.x0_shortcut:
            # d_x0 = its gradient as the start of the stream + those of all shortcuts
            self.d_residual += self.d_x0
        if self.embedding.is_trained:
            self.embedding.backward(self.d_residual, tokens.reshape(-1), tokens.shape[1], gradients)
        return loss_sum
