"""Functions that show what a model computes: predictions, attention, heads, embeddings, and what depends on what.

Each is a function of a model (`gpt_core.model.gpt.GPT`) or its weights and of token ids (B, T); none changes the
model's weights. They run the layers' own passes and read their buffers; `gpt_core.load(path).bundle.gpt()` is the model
of a checkpoint. Training runs those of heads and health, at evaluations (`gpt_core.training.model_stats`). Those that
take `tokens=None` read the buffers of the model's last batch. Ids are integers of any type: an array or nested lists.
"""

from gpt_core.interpret.ablation import (
    Ablation,
    MeanOutputs,
    Part,
    ablate,
    ablations,
    all_parts,
    joint_ablation,
    mean_outputs,
)
from gpt_core.interpret.activations import Trace, activation_names, attention, trace
from gpt_core.interpret.attribution import attribution
from gpt_core.interpret.embeddings import EmbeddingMap, Neighbors, embedding_map, neighbors
from gpt_core.interpret.heads import HeadScores, head_scores, induction_scores, repeated_tokens
from gpt_core.interpret.health import TensorStats, dead_units, update_ratio, weight_stats
from gpt_core.interpret.predictions import (
    Lens,
    NextTokens,
    lens_logits,
    logit_lens,
    next_tokens,
    text_predictions,
    token_losses,
)

__all__ = [
    "Ablation", "EmbeddingMap", "HeadScores", "Lens", "MeanOutputs", "Neighbors", "NextTokens", "Part", "TensorStats",
    "Trace", "ablate", "ablations", "activation_names", "all_parts", "attention", "attribution",
    "dead_units", "embedding_map", "head_scores", "induction_scores", "joint_ablation", "lens_logits", "logit_lens",
    "mean_outputs", "neighbors", "next_tokens", "repeated_tokens", "text_predictions", "token_losses", "trace",
    "update_ratio", "weight_stats",
]  # fmt: skip
