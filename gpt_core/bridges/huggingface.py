"""Hugging Face's model folders: file names; and of `gpt2` models `config.json` and the names of the tensors.

The layouts of `gpt2` are those of this program (`gpt_core.model.parameters`); only a prefix of the names differs.
`gpt_core.bridges.qwen3` has those of `qwen3`.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import msgspec

from gpt_core.bridges import qwen3
from gpt_core.bridges.architecture import architecture_of
from gpt_core.bridges.places import Place
from gpt_core.config.settings import ModelShape
from gpt_core.model.parameters import parameter_table
from gpt_core.text.documents import DocumentKind
from gpt_core.tokenizers import Tokenizer

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"  # of weights in several files
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"  # of byte-pair encoding without a tokenizer.json
ADDED_TOKENS = "added_tokens.json"
SPECIAL_TOKENS = "special_tokens_map.json"
MODEL_CARD = "README.md"

DOCUMENT = "gpt_tui_document"
"""Key of `config.json`: the setting `document`, which decides on what an import is evaluated; others ignore it"""

MODEL_TYPE = "gpt2"

PREFIX = "transformer."
"""Before each name but the head's; not in files from before the model had a head, such as those of GPT-2 itself"""
HEAD = "lm_head.weight"
"""Matrix of the logits, which some programs store even if it is that of the token embedding"""
EPSILON = 1e-5
ACTIVATION = "gelu_new"
SAME_ACTIVATIONS = (ACTIVATION, "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate")
"""Names of GELU's approximation by tanh"""

_MASKS = re.compile(r"h\.[0-9]+\.attn\.(?:bias|masked_bias)")  # causal masks, which older versions stored


class Config(msgspec.Struct, kw_only=True, frozen=True):
    """The part of a `config.json` that decides what a model computes, with the defaults of transformers."""

    model_type: str = ""
    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    """Width of the MLP; None for four times `n_embd`"""
    activation_function: str = ACTIVATION
    layer_norm_epsilon: float = EPSILON
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    """The matrix of the logits is that of the token embedding"""
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    gpt_tui_document: DocumentKind = "paragraph"

    @property
    def shape(self) -> ModelShape:
        """Shape of the model."""
        inner = 4 * self.n_embd if self.n_inner is None else self.n_inner
        return ModelShape(
            self.n_embd, inner, self.vocab_size, self.n_head, self.n_positions, self.n_layer,
            tied_head=self.tie_word_embeddings,
        )  # fmt: skip

    @property
    def rules(self) -> tuple[tuple[str, object, tuple[object, ...]], ...]:
        """Keys with the value that they have and those that a model of this program can have."""
        return (
            ("activation_function", self.activation_function, SAME_ACTIVATIONS),
            ("layer_norm_epsilon", self.layer_norm_epsilon, (EPSILON,)),
            ("scale_attn_weights", self.scale_attn_weights, (True,)),
            ("scale_attn_by_inverse_layer_idx", self.scale_attn_by_inverse_layer_idx, (False,)),
            ("add_cross_attention", self.add_cross_attention, (False,)),
        )


def parameter_name(tensor: str) -> str:
    """Return the parameter that a tensor holds, whose name may have the prefix; "" for a causal mask.

    Any other name, such as that of the head, is returned without the prefix.
    """
    name = tensor.removeprefix(PREFIX)
    return "" if _MASKS.fullmatch(name) else name


CONFIGS: dict[str, type[Config] | type[qwen3.Config]] = {MODEL_TYPE: Config, qwen3.NAME: qwen3.Config}
"""Contents of a `config.json` by model type."""
ModelConfig: TypeAlias = Config | qwen3.Config


def places(shape: ModelShape) -> list[Place]:
    """Return the tensors of a model, named without the prefix of `gpt2`."""
    if architecture_of(shape) == qwen3.NAME:
        return qwen3.places(shape, "transformers")
    return [Place(spec.name, spec.name) for spec in parameter_table(shape)]


def stored_name(place: Place, shape: ModelShape) -> str:
    """Return the name of a tensor in a file."""
    has_prefix = architecture_of(shape) == MODEL_TYPE and place.name != HEAD
    return PREFIX + place.name if has_prefix else place.name


def config(shape: ModelShape, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the contents of `config.json`."""
    return qwen3.config(shape, tokenizer) if architecture_of(shape) == qwen3.NAME else _gpt2_config(shape, tokenizer)


def _gpt2_config(shape: ModelShape, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": MODEL_TYPE,
        "vocab_size": shape.vocab_size,
        "n_positions": shape.seq_len,
        "n_ctx": shape.seq_len,  # required by llama.cpp's conversion to GGUF
        "n_embd": shape.d_model,
        "n_layer": shape.layers,
        "n_head": shape.num_heads,
        "n_inner": shape.hidden_size,
        "activation_function": ACTIVATION,
        "layer_norm_epsilon": EPSILON,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": shape.tied_head,
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
