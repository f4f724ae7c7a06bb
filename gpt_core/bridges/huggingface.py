"""Hugging Face's `gpt2` models: file names, `config.json`, and the names of the tensors.

The layouts are those of this program (`gpt_core.model.parameters`); only a prefix of the names differs.
"""

from __future__ import annotations

from typing import Any

from gpt_core.config.settings import ModelShape
from gpt_core.tokenizers import Tokenizer

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
MODEL_CARD = "README.md"

PREFIX = "transformer."
"""Before each name, except in files from before the model had a head, such as those of GPT-2 itself"""
EPSILON = 1e-5
ACTIVATION = "gelu_new"  # GELU's approximation by tanh


def config(shape: ModelShape, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the contents of `config.json`."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.seq_len,
        "n_embd": shape.d_model,
        "n_layer": shape.layers,
        "n_head": shape.num_heads,
        "n_inner": shape.hidden_size,
        "activation_function": ACTIVATION,
        "layer_norm_epsilon": EPSILON,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": True,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": tokenizer.BOS,
        "eos_token_id": tokenizer.EOS,
        "pad_token_id": tokenizer.PAD,
        "torch_dtype": "float32",
    }


def shape_of(config: dict[str, Any]) -> ModelShape:
    """Return the model shape of a `config.json` written by `config`."""
    return ModelShape(
        d_model=config["n_embd"], hidden_size=config["n_inner"], vocab_size=config["vocab_size"],
        num_heads=config["n_head"], seq_len=config["n_positions"], layers=config["n_layer"],
    )  # fmt: skip
