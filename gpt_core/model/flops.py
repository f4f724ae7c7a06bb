"""What the model costs, counted and not measured: the arithmetic of a step, the memory of a pass, the bytes of a token.

An operation is one multiplication or one addition of a matrix product, so a product of (M, K) by (K, N) has 2 M K N.
Counted is the arithmetic of the model, whatever the kernels do: what the causal mask hides is left out, and so is what
is computed a second time in the backward pass. What is no product (norms, GELU, softmax, AdamW) is not counted: it is
a hundredth of the arithmetic, though not of the time.
"""

from __future__ import annotations

from typing import NamedTuple

from gpt_core.config.settings import ModelShape
from gpt_core.kernels import attention
from gpt_core.model.activations import LOGITS_BUDGET
from gpt_core.model.parameters import parameter_count

FLOAT_BYTES = 4


class Operations(NamedTuple):
    """Operations by where they are made."""

    attention_linears: int
    """c_attn and c_proj: queries, keys, values, and the projection of what was attended"""
    attention_scores: int
    """q . k^T and P . v"""
    mlp_linears: int
    """c_fc and c_proj"""
    logits: int
    """ln_f's output . wte^T"""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def forward_flops(shape: ModelShape, batch: int, time: int, logit_rows: int) -> Operations:
    """One forward pass over (B, T) tokens that computes `logit_rows` of the N = B T rows of logits.

    linears   2 N L (C 3C + C C)  and  2 N L (C F + F C)
    scores    2 (C + C) operations for each pair of a query and a key it sees, T (T + 1) / 2 pairs a sequence and
              layer: 2 B L C T (T + 1)
    logits    2 rows C V
    """
    C, F, L = shape.d_model, shape.hidden_size, shape.layers
    rows = batch * time
    return Operations(
        attention_linears=2 * rows * L * 4 * C * C,
        attention_scores=2 * batch * L * C * time * (time + 1),
        mlp_linears=2 * rows * L * 2 * C * F,
        logits=2 * logit_rows * C * shape.vocab_size,
    )


def step_flops(shape: ModelShape, batch: int, time: int) -> Operations:
    """One training step on (B, T) tokens: three times the forward pass.

    For y = x . w the backward pass makes two products of the same size, d_x = d_y . w^T and d_w = x^T . d_y; for a
    product of two activations likewise.
    """
    return Operations(*(3 * count for count in forward_flops(shape, batch, time, batch * time)))


def prefill_flops(shape: ModelShape, tokens: int) -> Operations:
    """Reading a prompt from an empty cache: a forward pass as far as the logits of its last token depend on it.

    In the last block that is the queries, keys and values of all tokens, and the rest of the block for the last one
    alone.
    """
    C, F = shape.d_model, shape.hidden_size
    everything = forward_flops(shape, 1, tokens, logit_rows=1)
    others = tokens - 1
    return Operations(
        attention_linears=everything.attention_linears - 2 * others * C * C,
        attention_scores=everything.attention_scores - 2 * C * others * tokens,
        mlp_linears=everything.mlp_linears - 2 * others * 2 * C * F,
        logits=everything.logits,
    )


def decode_bytes(shape: ModelShape, position: int) -> int:
    """Bytes that must be read to decode the token at `position` (from 0), each once.

    All weights (of the position embeddings one row, of the token embeddings all: they are the logits' matrix too) and
    the keys and values of all positions up to this one.
    """
    weights = parameter_count(shape) - (shape.seq_len - 1) * shape.d_model
    cached = 2 * shape.layers * shape.d_model * (position + 1)
    return FLOAT_BYTES * (weights + cached)


def activation_bytes(shape: ModelShape, batch: int, time: int, threads: int) -> int:
    """Bytes of all buffers of a forward and backward pass over (B, T) tokens: `Activations` and `GradientScratch`.

    For N = B T rows, in values:

        kept by each block   q, k, v, attended and middle 5 N C; hidden N F; mean and 1/std of two norms 4 N;
                             log of the softmax's sums B H T
        kept by the model    the stream between the blocks (L + 1) N C; ln_f's mean and 1/std 2 N; losses and
                             predictions 2 N; one slice of the logits
        shared scratch       a norm's output, and two gradients of the stream's width, 3 N C; GELU's output N F;
                             the widest gradient N max(F, 3 C); for each thread, the keys and values of a
                             head and a tile of its scores
    """
    C, F, V, L = shape.d_model, shape.hidden_size, shape.vocab_size, shape.layers
    N = batch * time
    block = 5 * N * C + N * F + 4 * N + batch * shape.num_heads * time
    model = (L + 1) * N * C + 4 * N + min(N, max(16, LOGITS_BUDGET // V)) * V
    scratch = 3 * N * C + N * F + N * max(F, 3 * C) + threads * attention.workspace_size(time, shape.head_size)
    return FLOAT_BYTES * (L * block + model + scratch)
