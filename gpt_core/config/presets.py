"""Presets: named sets of settings that fit together, by model size."""

from __future__ import annotations

import msgspec

from gpt_core.config.settings import GROUP_RATES, ModelShape, Settings

EVAL_TOKENS = 65_536  # a token is scored three times as fast as trained: 5% of the time of nano, 4% of micro's

# "induction" is an experiment rather than a size: a text with one rule, and a model in which a head learns it.
# The settings in which each preset differs from the defaults of `Settings`.
PRESETS: dict[str, dict[str, object]] = {
    "nano": {
        "d_model": 128, "hidden_size": 512, "vocab_size": 3072, "num_heads": 4, "seq_len": 64, "layers": 4,
        "precision": "auto",
        **dict.fromkeys(GROUP_RATES, 3e-3),
        "warmup_steps": 100, "decay_steps": 4000, "adam_beta2": 0.99, "weight_decay": 0.1,
        "batch_size": 16, "micro_batch_size": 0, "eval_every_steps": 400, "eval_tokens": EVAL_TOKENS, "max_epochs": 20,
        "best_metric": "loss", "improvement_threshold": 0.001, "patience": 3, "patience_min_steps": 1200,
    },
    "micro": {
        "d_model": 320, "hidden_size": 1280, "vocab_size": 4096, "num_heads": 5, "seq_len": 256, "layers": 7,
        "precision": "auto",
        **dict.fromkeys(GROUP_RATES, 1e-3),
        "warmup_steps": 200, "decay_steps": 10_000, "adam_beta2": 0.99, "weight_decay": 0.5, "dropout": 0.2,
        "batch_size": 8, "micro_batch_size": 0, "eval_every_steps": 250, "eval_tokens": EVAL_TOKENS, "max_epochs": 20,
        "best_metric": "loss", "improvement_threshold": 0.001, "patience": 3, "patience_min_steps": 750,
    },
    "mini": {"eval_tokens": EVAL_TOKENS, "precision": "auto", "weight_decay": 0.5, "dropout": 0.2},
    "induction": {
        "d_model": 128, "hidden_size": 64, "vocab_size": 260, "num_heads": 4, "seq_len": 32, "layers": 2,
        # embeddings of random letters have noisy gradients, and a small rate; that of the attention is the largest
        **dict.fromkeys(GROUP_RATES, 1e-3), "attn_lr": 2e-3, "unembed_lr": 3e-4,
        "warmup_steps": 50, "decay_steps": 0, "adam_beta2": 0.99, "weight_decay": 0.1,
        "batch_size": 24, "micro_batch_size": 0, "eval_every_steps": 100, "eval_tokens": EVAL_TOKENS // 2,
        "max_steps": 4000, "best_metric": "loss", "improvement_threshold": 0.001, "patience": 0,
        "synthetic_text": "induction", "document": "line", "sample_prompt": "planetsplan",
    },
}  # fmt: skip

DEFAULT_PRESET = "nano"
CUSTOM = "custom"
"""Name of a model whose shape is not that of a preset."""


def preset(name: str) -> Settings:
    """Return the settings of a preset.

    Raises:
        KeyError: There is no preset of this name.
    """
    return msgspec.convert(PRESETS[name], Settings)


def shape_name(shape: ModelShape) -> str:
    """Return the name of the preset with this model shape, "custom" if there is none."""
    return next((name for name in PRESETS if preset(name).shape == shape), CUSTOM)
