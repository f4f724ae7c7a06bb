"""Defaults of fine-tuning: how the settings of a preset differ for a run that starts from trained weights.

Trained weights need smaller updates than random ones and few of them, so rates, warm-up and decay are shorter, and the
model is evaluated more often: it may fit a short text within a few hundred steps.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from gpt_core.config.presets import preset
from gpt_core.config.settings import GROUP_RATES, ModelShape, Settings

RATE_FACTOR = 0.3
"""Learning rates as a fraction of those of the preset.

Measured with nano after 300 steps: on a text like its first one, 0.3 ends lower than 0.1 and than 1. On texts of
another kind 1 learns faster, and overfits sooner.
"""
WEIGHT_DECAY = 0.1
"""Weight decay, without dropout: a fine-tuning run is short, where the large presets are set for many passes."""
EVAL_TOKENS = 32_768
FROM_FILE = (*ModelShape.__struct_fields__, "tokenizer")
"""Settings that a run takes from the file that it starts from."""
MAX_CONTEXT = 2048
"""Longest context that is taken from a file, in tokens.

A configuration of Qwen3 has 32,768 unless it names another, whatever the model was trained with; the time of attention
grows with the square of the context.
"""


class Pace(NamedTuple):
    """Steps of a fine-tuning run, which depend on the tokens per step of a preset."""

    warmup_steps: int
    decay_steps: int
    eval_every_steps: int
    patience_min_steps: int


PACES = {
    "nano": Pace(50, 2000, 200, 600), "micro": Pace(50, 2000, 100, 300), "mini": Pace(50, 2000, 50, 150),
    "induction": Pace(20, 2000, 50, 600),
}  # fmt: skip


def fine_tuning_defaults(preset_name: str) -> dict[str, object]:
    """Return the settings in which fine-tuning differs from a preset, by name.

    Raises:
        KeyError: The preset is unknown.
    """
    base = preset(preset_name)
    rates = {name: float(f"{RATE_FACTOR * getattr(base, name):.6g}") for name in GROUP_RATES}
    return rates | PACES[preset_name]._asdict() | {
        "dropout": 0.0, "weight_decay": WEIGHT_DECAY, "eval_tokens": EVAL_TOKENS, "best_metric": "loss",
        "improvement_threshold": 0.001, "patience": 3,
    }  # fmt: skip


def settings_from_file(file: Settings) -> dict[str, object]:
    """Return the settings that a run takes from a file with the settings `file`, unless it is requested otherwise."""
    return {name: getattr(file, name) for name in FROM_FILE} | {"seq_len": min(file.seq_len, MAX_CONTEXT)}


def base_settings(preset_name: str, init_from: str) -> Settings:
    """Return the settings of a preset: its own, or those for fine-tuning if `init_from` names a file.

    Raises:
        KeyError: The preset is unknown.
    """
    base = preset(preset_name)
    return msgspec.structs.replace(base, **fine_tuning_defaults(preset_name)) if init_from else base
