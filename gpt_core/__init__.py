"""Train a GPT on the CPU, and use the result.

    import gpt_core

    run = gpt_core.train(train_file="my.txt", preset="nano", max_steps=500)
    for event in run:                       # one event per step, evaluation, sample and save
        print(event)
    print(run.result().train_loss)          # result() alone runs to the end, too

    model = gpt_core.load("models/best_model.safetensors")
    print(model.generate("It was", max_tokens=60, temperature=0.8, seed=1))
    for piece in model.stream("It was"):
        print(piece, end="", flush=True)
    print(model.evaluate("eval.txt").bits_per_byte)
    print(model.tokenizer.encode(b"It was"), model.logits([1, 5, 9]).shape)
    print(model.token_losses("It was").losses)  # nats per token; gpt_core.interpret looks further inside
    model.export("hf", "my-model")          # or "gguf", "my-model.gguf"

    gpt2 = gpt_core.load(gpt_core.import_model("gpt2"))  # a folder that transformers wrote

Every setting of `gpt-tui config` is a keyword argument of `train`. Tokenizers are registered with
`gpt_core.tokenizers.register`, metrics with `gpt_core.training.metrics.register`, optimizers with
`gpt_core.registry.OPTIMIZERS.register`. The package does not depend on a terminal; `gpt_tui` is one user of it.

Importing the package is cheap: NumPy and the compiled kernels are loaded when a name below is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt_core.api import Model, TrainingResult, TrainingRun, import_model, load, train
    from gpt_core.errors import GptError

__version__ = "0.1.0"

__all__ = ["GptError", "Model", "TrainingResult", "TrainingRun", "__version__", "import_model", "load", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    from importlib import import_module

    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("gpt_core.errors" if name == "GptError" else "gpt_core.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "annotations"})
