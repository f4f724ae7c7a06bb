"""Model card: the README of an exported model, with the figures of its run."""

from __future__ import annotations

from pathlib import Path

from gpt_core.bridges.architecture import architecture_of
from gpt_core.bridges.run_text import training_text
from gpt_core.bridges.sample_prompt import shown_prompt
from gpt_core.config.presets import CUSTOM
from gpt_core.config.settings import GROUP_RATES, LEARNING_RATE
from gpt_core.config.validation import groups
from gpt_core.errors import printable
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.parameters import parameter_count


def model_card(bundle: ModelBundle) -> str:
    """Return the model card in Markdown. It names the text without its folder, and states no license."""
    text = training_text(bundle)
    figures = _table([*_figures(bundle, text), *_model_rows(bundle)])
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- {architecture_of(bundle.settings.shape)}
- gpt-tui
# license: state one, and check that the license of the text permits it
---

# {_title(bundle, text)}

A base model from gpt-tui: it continues text and is not instruction-tuned.

| | |
| --- | --- |
{figures}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")
prompt = tokenizer({shown_prompt(bundle, bundle.settings.sample_prompt).text!r}, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt)[0], skip_special_tokens=True))
```

The sampling settings of the run are in `generation_config.json`.
{_settings(bundle) if bundle.step else ""}"""


def _title(bundle: ModelBundle, text: str) -> str:
    settings, preset = bundle.settings, bundle.preset_name
    name = preset if preset not in ("", CUSTOM) else f"{settings.layers} × {settings.d_model}"
    return f"GPT ({name})" + (f" trained on {_cell(text)}" if text else "")


def _figures(bundle: ModelBundle, text: str) -> list[tuple[str, str]]:
    """Return what is known about the run, as label and value."""
    settings, scores = bundle.settings, bundle.scores
    if not bundle.step:
        return [("training", "none with gpt-tui; the weights are as they were imported or initialized")]
    origin = [("fine-tuned from", Path(settings.init_from).name)] if settings.init_from else []
    rows = [*origin, ("steps", f"{bundle.step:,}"), ("tokens per step", f"{settings.batch_size * settings.seq_len:,}")]
    if scores is None:
        rows.append(("eval loss", "not evaluated at this step"))
    else:
        rows += [
            ("eval loss", f"{scores.loss:.4f} nats per token"),
            ("eval token accuracy", f"{100 * scores.accuracy:.2f}%"),
            ("bits per byte", f"{scores.bits_per_byte:.4f}"),
        ]
    digest = f"SHA-256 {bundle.corpus_sha256}" if bundle.corpus_sha256 else ""
    return [*rows, ("training text", ", ".join(filter(None, (text, digest))) or "unknown")]


def _model_rows(bundle: ModelBundle) -> list[tuple[str, str]]:
    shape = bundle.settings.shape
    return [
        ("parameters", f"{parameter_count(shape):,}"),
        (
            "shape",
            f"{shape.layers} layer{'s' * (shape.layers != 1)}, width {shape.d_model}, "
            f"{shape.num_heads} head{'s' * (shape.num_heads != 1)}, MLP {shape.hidden_size}",
        ),
        ("architecture", architecture_of(shape)),
        ("context length", f"{shape.seq_len:,} tokens"),
        ("tokenizer", f"{bundle.tokenizer.name}, {shape.vocab_size:,} tokens"),
    ]


def _settings(bundle: ModelBundle) -> str:
    """Return the section about the settings that determine the training."""
    rates = (LEARNING_RATE,) if bundle.settings.learning_rate is not None else GROUP_RATES
    keys = ("batch_size", *groups()["learning rate"], *groups()["optimizer"], "document", "precision", "seed")
    names = [name for key in keys for name in (rates if key == LEARNING_RATE else (key,))]
    rows = _table([(f"`{name}`", str(getattr(bundle.settings, name))) for name in names])
    return f"\n## Training settings\n\n| setting | value |\n| --- | --- |\n{rows}\n"


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"| {label} | {_cell(value)} |" for label, value in rows)


def _cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return printable(text).replace("|", "\\|")
