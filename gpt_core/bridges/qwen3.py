"""Qwen3 in other programs: `Qwen3ForCausalLM` of transformers, and the architecture `qwen3` of llama.cpp.

It is a model with RMS norms, QK-norm, rotary positions and SwiGLU, and without biases (Qwen Team 2025, "Qwen3 Technical
Report"). Both store a linear weight as (out, in), and queries, keys and values, and gates and hidden units, in tensors
of their own. Their rotary positions are those of `gpt_core.model.layers.rotary`: halves of a head, not neighbors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from gpt_core.bridges.places import Place
from gpt_core.config.settings import QWEN3, ModelShape
from gpt_core.formats.gguf import Value
from gpt_core.model.layers.embedding import WTE
from gpt_core.model.layers.head import LM_HEAD
from gpt_core.model.layers.rotary import BASE
from gpt_core.text.documents import DocumentKind
from gpt_core.tokenizers import Tokenizer

NAME = "qwen3"
"""Model type of transformers, and architecture of GGUF files"""
EPSILON = 1e-6

Program = Literal["transformers", "llama.cpp"]

# parameter of a layer, part and number of parts, name in transformers, name in llama.cpp
_LAYER = (
    ("ln_1", 0, 1, "input_layernorm", "attn_norm"),
    ("attn.c_attn", 0, 3, "self_attn.q_proj", "attn_q"),
    ("attn.c_attn", 1, 3, "self_attn.k_proj", "attn_k"),
    ("attn.c_attn", 2, 3, "self_attn.v_proj", "attn_v"),
    ("attn.q_norm", 0, 1, "self_attn.q_norm", "attn_q_norm"),
    ("attn.k_norm", 0, 1, "self_attn.k_norm", "attn_k_norm"),
    ("attn.c_proj", 0, 1, "self_attn.o_proj", "attn_output"),
    ("ln_2", 0, 1, "post_attention_layernorm", "ffn_norm"),
    ("mlp.c_fc", 0, 2, "mlp.gate_proj", "ffn_gate"),
    ("mlp.c_fc", 1, 2, "mlp.up_proj", "ffn_up"),
    ("mlp.c_proj", 0, 1, "mlp.down_proj", "ffn_down"),
)
_OTHERS = (
    (WTE, "model.embed_tokens", "token_embd"), ("ln_f.weight", "model.norm", "output_norm"),
    (LM_HEAD, "lm_head", "output"),
)  # fmt: skip


def places(shape: ModelShape, program: Program) -> list[Place]:
    """Return the tensors of a model in a program's files."""
    which = ("transformers", "llama.cpp").index(program)
    layer_prefix = ("model.layers", "blk")[which]
    embedding, final_norm, head = (Place(f"{names[which]}.weight", parameter) for parameter, *names in _OTHERS)
    layers = [
        Place(
            f"{layer_prefix}.{layer}.{names[which]}.weight", f"h.{layer}.{module}.weight", ".c_" in module, part, parts
        )
        for layer in range(shape.layers)
        for module, part, parts, *names in _LAYER
    ]
    return [embedding, *layers, final_norm, *([] if shape.tied_head else [head])]


# -- transformers


class Config(msgspec.Struct, kw_only=True, frozen=True):
    """The part of a `config.json` that decides what a model computes, with the defaults of transformers."""

    model_type: str = NAME
    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 22016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 32
    head_dim: int = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    rms_norm_eps: float = EPSILON
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    use_sliding_window: bool = False
    rope_theta: float = BASE
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    gpt_tui_document: DocumentKind = "paragraph"

    @property
    def shape(self) -> ModelShape:
        """Shape of the model."""
        return ModelShape(
            self.hidden_size, self.intermediate_size, self.vocab_size, self.num_attention_heads,
            self.max_position_embeddings, self.num_hidden_layers, tied_head=self.tie_word_embeddings,
            **QWEN3,  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def rules(self) -> tuple[tuple[str, object, tuple[object, ...]], ...]:
        """Keys with the value that they have and those that a model of this program can have."""
        rope = self.rope_parameters or {"rope_theta": self.rope_theta, "rope_type": "default"}
        heads = self.num_attention_heads
        return (
            ("num_key_value_heads", heads if self.num_key_value_heads is None else self.num_key_value_heads, (heads,)),
            ("head_dim", self.head_dim, (self.hidden_size // max(1, heads),)),
            ("hidden_act", self.hidden_act, ("silu",)),
            ("rms_norm_eps", self.rms_norm_eps, (EPSILON,)),
            ("attention_bias", self.attention_bias, (False,)),
            ("use_sliding_window", self.use_sliding_window, (False,)),
            ("rope_scaling", self.rope_scaling, (None,)),
            ("rope_type", rope.get("rope_type", "default"), ("default",)),
            ("rope_theta", rope.get("rope_theta", self.rope_theta), (BASE,)),
        )


def config(shape: ModelShape, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the contents of `config.json`; transformers reads `rope_theta` up to version 4, then the parameters."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": NAME,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_heads,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": shape.seq_len,
        "rms_norm_eps": EPSILON,
        "rope_theta": BASE,
        "rope_parameters": {"rope_theta": BASE, "rope_type": "default"},
        "tie_word_embeddings": shape.tied_head,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": tokenizer.BOS,
        "eos_token_id": tokenizer.EOS,
        "pad_token_id": tokenizer.PAD,
        "torch_dtype": "float32",
    }


# -- GGUF

_INTEGERS = {
    "context_length": "seq_len", "embedding_length": "d_model", "block_count": "layers",
    "feed_forward_length": "hidden_size", "attention.head_count": "num_heads",
}  # fmt: skip


def gguf_values(shape: ModelShape) -> dict[str, Value]:
    """Return the keys of the model shape."""
    numbers: dict[str, Value] = {key: getattr(shape, name) for key, name in _INTEGERS.items()}
    numbers |= {
        "attention.head_count_kv": shape.num_heads, "attention.key_length": shape.head_size,
        "attention.value_length": shape.head_size, "attention.layer_norm_rms_epsilon": EPSILON, "rope.freq_base": BASE,
    }  # fmt: skip
    return {f"{NAME}.{key}": number for key, number in numbers.items()}


def gguf_shape(number: Callable[[str], int], vocab_size: int, *, tied_head: bool) -> ModelShape:
    """Return the model shape of a file; `number` returns the value of a key of the architecture."""
    found = {name: number(key) for key, name in _INTEGERS.items()}
    return ModelShape(vocab_size=vocab_size, tied_head=tied_head, **found, **QWEN3)  # type: ignore[arg-type]


def gguf_rules(values: Mapping[str, Any], shape: ModelShape) -> tuple[tuple[str, object, object], ...]:
    """Return keys with the value that they have and the one that a model of this program has."""
    found = gguf_values(shape)
    optional = ("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.freq_base")
    rules = [(f"{NAME}.{key}", values.get(f"{NAME}.{key}", found[f"{NAME}.{key}"])) for key in optional]
    rules.append((key := f"{NAME}.attention.layer_norm_rms_epsilon", values.get(key)))
    absent: dict[str, Value] = {
        "rope.dimension_count": shape.head_size, "rope.scaling.type": "none", "rope.scaling.factor": 1.0,
        "rope.scale_linear": 1.0,
    }  # fmt: skip
    found |= {f"{NAME}.{key}": value for key, value in absent.items()}
    rules += [(key := f"{NAME}.{name}", values.get(key, found[key])) for name in absent]
    return tuple((key, got, found[key]) for key, got in rules)
