"""Model card: the README of an exported model, with the figures of its run."""

from __future__ import annotations

from pathlib import Path

from gpt_core.config.settings import Settings
from gpt_core.errors import printable
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import parameter_count

_SETTINGS = (
    "batch_size", "learning_rate", "warmup_steps", "decay_steps", "min_lr_share", "optimizer", "adam_beta1",
    "adam_beta2", "weight_decay", "grad_clip", "document", "precision", "seed",
)  # fmt: skip


def model_card(bundle: ModelBundle) -> str:
    """Return the model card in Markdown. It names the text without its folder, and states no license."""
    settings = bundle.settings
    rows = [*_figures(bundle), *_model_rows(bundle)]
    table = "\n".join(f"| {label} | {_cell(value)} |" for label, value in rows)
    values = "\n".join(f"| `{name}` | {_cell(str(getattr(settings, name)))} |" for name in _SETTINGS)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
- gpt-tui
# license: state one, and check that the license of the text permits it
---

# {_title(settings, bundle.preset_name)}

A small base model, trained with gpt-tui: it continues text and is not instruction-tuned.

| | |
| --- | --- |
{table}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")
prompt = tokenizer("It was ", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt)[0], skip_special_tokens=True))
```

The tokenizer puts `<bos>` before each text. The sampling settings of the run are in
`generation_config.json`.

## Training settings

| setting | value |
| --- | --- |
{values}
"""


def _title(settings: Settings, preset: str) -> str:
    name = preset if preset and preset != "custom" else f"{settings.layers} × {settings.d_model}"
    return f"GPT ({name}) trained on {_cell(_text_name(settings))}"


def _figures(bundle: ModelBundle) -> list[tuple[str, str]]:
    """Return what is known about the run, as label and value."""
    scores = bundle.scores
    rows = [("steps", f"{bundle.step:,}"), ("tokens per step", f"{_tokens_per_step(bundle.settings):,}")]
    if scores is None:
        rows.append(("eval loss", "not evaluated at this step"))
    else:
        rows += [
            ("eval loss", f"{scores.loss:.4f} nats per token"),
            ("eval token accuracy", f"{100 * scores.accuracy:.2f}%"),
            ("bits per byte", f"{scores.bits_per_byte:.4f}"),
        ]
    digest = f", SHA-256 {bundle.corpus_sha256}" if bundle.corpus_sha256 else ""
    return [*rows, ("training text", f"{_text_name(bundle.settings)}{digest}")]


def _model_rows(bundle: ModelBundle) -> list[tuple[str, str]]:
    shape = bundle.settings.shape
    return [
        ("parameters", f"{parameter_count(shape):,}"),
        ("shape", f"{shape.layers} layers, width {shape.d_model}, {shape.num_heads} heads, MLP {shape.hidden_size}"),
        ("context length", f"{shape.seq_len:,} tokens"),
        ("tokenizer", f"{bundle.tokenizer.name}, {shape.vocab_size:,} tokens"),
    ]


def _tokens_per_step(settings: Settings) -> int:
    return settings.batch_size * settings.seq_len


def _text_name(settings: Settings) -> str:
    return Path(settings.train_file).name or "the default text"


def _cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return printable(text).replace("|", "\\|")
