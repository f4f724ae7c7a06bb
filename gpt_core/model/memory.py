"""Bytes of memory that a model needs, counted from the layers and their number formats."""

from __future__ import annotations

from gpt_core.config.settings import ModelShape
from gpt_core.model.layers.buffers import BatchShape, buffer_bytes
from gpt_core.model.layers.embedding import WPE, WTE
from gpt_core.model.layers.transformer import Transformer
from gpt_core.model.parameters import parameter_count, parameter_table
from gpt_core.model.precision import PRECISION, ProductFormat
from gpt_core.model.stored_weights import PANEL, TRANSPOSED, WeightFormat, matrix_bytes


def weight_bytes(shape: ModelShape) -> int:
    """Return the bytes of the weights."""
    return PRECISION.weights.bytes * parameter_count(shape)


def gradient_bytes(shape: ModelShape) -> int:
    """Return the bytes of the gradients of all weights."""
    return PRECISION.compute.bytes * parameter_count(shape)


def activation_bytes(
    shape: ModelShape, batch: int, time: int, threads: int, products: ProductFormat = "float32"
) -> int:
    """Return the bytes of all buffers of a forward and backward pass over (B, T) tokens.

    The sum of what the layers declare in `own_buffers`, and the tables of rotary positions; nothing else is allocated
    during a step.
    """
    transformer = Transformer(shape)
    transformer.multiply_in(products)
    return buffer_bytes(transformer.buffers(BatchShape(batch, time, threads))) + rotary_table_bytes(shape)


def rotary_table_bytes(shape: ModelShape) -> int:
    """Return the bytes of the cosines and sines of rotary positions, 2 (T, D/2) values; 0 for learned positions."""
    return PRECISION.compute.bytes * shape.seq_len * shape.head_size if shape.positions == "rope" else 0


def kv_cache_bytes(shape: ModelShape, positions: int) -> int:
    """Return the bytes of the keys and values of `positions` tokens in all layers."""
    blocks = Transformer(shape).blocks
    return PRECISION.activations.bytes * sum(block.attn.kv_cache_size(positions) for block in blocks)


def decode_bytes(shape: ModelShape, position: int, weight_format: WeightFormat = "float32") -> int:
    """Return the bytes that must be read to decode the token at `position` (from 0), each once.

    These are all weights, but one row alone of the position embeddings, and the keys and values up to this position.
    Token embeddings count in full if they are the matrix of the logits, else one row of them. Weights stored in fewer
    bits have a bfloat16 cache.
    """
    weights = 0
    for spec in parameter_table(shape):
        if spec.name == WPE:
            weights += PRECISION.weights.bytes * shape.d_model
        elif spec.name == WTE and not shape.tied_head:
            weights += matrix_bytes(shape.d_model, PANEL, weight_format) // PANEL
        elif len(spec.shape) == 2:
            inputs, outputs = reversed(spec.shape) if spec.name in TRANSPOSED else spec.shape
            weights += matrix_bytes(inputs, outputs, weight_format)
        else:
            weights += PRECISION.weights.bytes * spec.size
    cache = kv_cache_bytes(shape, position + 1)
    return weights + (cache if weight_format == "float32" else cache // 2)
