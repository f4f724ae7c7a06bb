"""Model bundle: what generating, evaluating and converting a trained model need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpt_core.config.settings import Settings
from gpt_core.model.gpt import GPT
from gpt_core.model.parameters import Parameters
from gpt_core.model.precision import product_format
from gpt_core.model.scores import EvalScores
from gpt_core.model.stored_weights import StoredWeights
from gpt_core.tokenizers import Tokenizer


@dataclass(frozen=True)
class ModelBundle:
    """A model with its tokenizer and the settings it was trained with. Optimizer state is not part of it.

    Attributes:
        settings: Settings of the run, the model shape among them.
        parameters: Weights, shared and not copied.
        tokenizer: Tokenizer that the model was trained with.
        step: Optimizer steps taken.
        preset_name: Preset with the shape of the model, "custom" if there is none; "" if unknown.
        scores: Scores of these weights in their run, None if that step was not evaluated.
        path: File that the model was loaded from, None for a model in memory.
        corpus_sha256: Digest of the training text, "" if unknown.
        eval_sha256: Digest of the eval text, or of the part of the training text that was held out; "" if unknown.
    """

    settings: Settings
    parameters: Parameters
    tokenizer: Tokenizer
    step: int = 0
    preset_name: str = ""
    scores: EvalScores | None = None
    path: Path | None = None
    corpus_sha256: str = ""
    eval_sha256: str = ""

    def gpt(self) -> GPT:
        """Return the model for evaluation: it multiplies as its run did or, with stored weights, as a decoder does."""
        if self.settings.weights == "float32":
            return GPT(self.parameters, product_format(self.settings.precision))
        return gpt_of(StoredWeights(self.parameters, self.settings.weights))


def gpt_of(weights: Parameters | StoredWeights) -> GPT:
    """Return the model for evaluation that multiplies as a decoder of these weights does."""
    if isinstance(weights, Parameters):
        return GPT(weights)
    return GPT(weights.expanded(), weights.products)
