"""A training text without one of its novels, that novel, and the models of the rule for time budgets.

    python benchmarks/whole_novel.py FOLDER [--novel N] [--bytes N] [--novel-bytes N] [--threads N]
    gpt-tui race --config FOLDER/1.2M.toml --steps 1000 --vary muon_beta=0.9,0.95 --models-dir FOLDER/race

The shipped training text is five novels. With `hold_out`, a race is scored on the end of the last one, whose beginning
is trained on, so that names and style are known. This script writes to a folder

- `train.txt`: the training text without novel N (1 to 5, in the order of the text), or the first bytes of that;
- `novel.txt`: novel N, or the first bytes of it, which the races are scored on;
- `1.2M.toml`, `2.8M.toml`, ...: the settings of the models of the rule, by their parameters, with its schedule. They
  name the two texts. All of `novel.txt` is scored, after each pass over the training text and every `EVAL_STEPS`
  steps: give a race a multiple of them, so that its last step is scored.

Nothing is random: a race of the same version on the same processor has the same scores. They do not depend on the load
of the machine; compare them at equal tokens.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import msgspec

from gpt_core.bench.budget_rule import COOLDOWN, MIN_WARMUP, MODELS
from gpt_core.config.presets import DEFAULT_PRESET, preset
from gpt_core.config.settings import Settings
from gpt_core.config.toml_file import changes_as_toml
from gpt_core.model.parameters import parameter_count

TEXT = Path(__file__).parents[1] / "data" / "raw" / "train.en"
TITLES = ("EMMA", "MANSFIELD PARK", "NORTHANGER ABBEY", "PRIDE AND PREJUDICE", "SENSE AND SENSIBILITY")
EVAL_STEPS = 250


def main() -> None:
    """Write the texts and the settings, and print what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--novel", type=int, default=3, choices=range(1, len(TITLES) + 1), help="novel to hold out")
    parser.add_argument("--bytes", type=int, help="length of the training text (default: the four other novels)")
    parser.add_argument("--novel-bytes", type=int, help="length of the eval text (default: the complete novel)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    novels = split(TEXT.read_text(encoding="utf-8"))
    held_out = novels.pop(options.novel - 1)
    train, held_out = (
        text.encode()[:length].decode(errors="ignore")
        for text, length in (("".join(novels), options.bytes), (held_out, options.novel_bytes))
    )
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("train.txt", train), ("novel.txt", held_out)):
        Path(folder, name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(text.encode()):,} bytes")
    names = []
    for model in MODELS:
        values = model.values | {
            "train_file": str(folder / "train.txt"), "eval_file": str(folder / "novel.txt"), "precision": "float32",
            "threads": options.threads, "warmup_steps": MIN_WARMUP, "cooldown": COOLDOWN, "min_lr_share": 0.0,
            "eval_every_steps": EVAL_STEPS, "eval_tokens": 0, "sample_tokens": 0, "save_every_minutes": 0,
        }  # fmt: skip
        settings = msgspec.convert(msgspec.structs.asdict(preset(DEFAULT_PRESET)) | values, Settings)
        names.append(f"{parameter_count(settings.shape) / 1e6:.1f}M.toml")
        Path(folder, names[-1]).write_text(changes_as_toml(DEFAULT_PRESET, settings, folder), encoding="utf-8")
    print(f"held out: {TITLES[options.novel - 1]}; in {folder}: {', '.join(names)}")


def split(text: str) -> list[str]:
    """Return the novels of the training text: each starts with its title, in capitals on a line of its own."""
    starts = [found.start() for title in TITLES if (found := re.search(f"^{title}$", text, re.MULTILINE)) is not None]
    assert len(starts) == len(TITLES)
    assert starts == sorted(starts)
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


if __name__ == "__main__":
    main()
