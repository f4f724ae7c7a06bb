"""Every setting of a run, its default, its bounds and what it means: one flat, frozen, typed table.

A preset gives each setting a value; a TOML file, `--set KEY=VALUE` and the other options override it (see
`gpt_core.config.resolve`). The same names are used in files, on the command line and in checkpoints.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

# Counts of steps, epochs and tokens stay far below what an integer of 64 bits, or a float, holds exactly.
MAX_COUNT = 1 << 50
PositiveInt = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Rate = Annotated[float, Meta(ge=0.0, le=10.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Beta = Annotated[float, Meta(ge=0.0, lt=1.0)]
# Everything that meets the float32 weights stays within what float32 can hold.
NonNegative = Annotated[float, Meta(ge=0.0, le=1e30)]


class ModelShape(msgspec.Struct, frozen=True):
    """What determines the size of every tensor of the model (C, F, V, H, T and L of the legend)."""

    d_model: int
    hidden_size: int
    vocab_size: int
    num_heads: int
    seq_len: int
    layers: int

    @property
    def head_size(self) -> int:
        """D: channels of one attention head."""
        return self.d_model // self.num_heads


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings in force. The defaults are the `mini` preset's: 57.5M parameters."""

    # the model's shape
    d_model: Annotated[int, Meta(ge=1, le=65536, description="channels of the residual stream (C)")] = 768
    hidden_size: Annotated[int, Meta(ge=1, le=262144, description="width of the MLP's hidden layer (F)")] = 2048
    vocab_size: Annotated[
        int, Meta(ge=260, le=1 << 20, description="ids: 4 special, 256 bytes, the rest pieces (V)")
    ] = 16384
    num_heads: Annotated[int, Meta(ge=1, le=1024, description="attention heads (H); must divide d_model")] = 12
    seq_len: Annotated[int, Meta(ge=2, le=1 << 20, description="context length in tokens (T)")] = 1024
    layers: Annotated[int, Meta(ge=1, le=1024, description="transformer blocks (L)")] = 8

    # learning rates: one group each, all on the same schedule
    attn_lr: Annotated[Rate, Meta(description="learning rate of the attention weights")] = 3e-4
    mlp_lr: Annotated[Rate, Meta(description="learning rate of the MLP weights")] = 3e-4
    norm_lr: Annotated[Rate, Meta(description="learning rate of the layer norms")] = 3e-4
    pos_lr: Annotated[Rate, Meta(description="learning rate of the position embedding")] = 3e-4
    unembed_lr: Annotated[Rate, Meta(description="learning rate of the tied token embedding")] = 3e-5
    warmup_steps: Annotated[Count, Meta(description="steps of linear warm-up")] = 10_000
    decay_steps: Annotated[Count, Meta(description="steps of cosine decay after the warm-up (0: constant rate)")] = (
        1_000_000
    )
    min_lr_share: Annotated[Share, Meta(description="share of the rate that is left when the cosine has ended")] = 0.1

    # AdamW
    adam_beta1: Annotated[Beta, Meta(description="decay of the first moment")] = 0.9
    adam_beta2: Annotated[Beta, Meta(description="decay of the second moment")] = 0.999
    adam_eps: Annotated[float, Meta(ge=1e-30, le=1.0, description="added to the root of the second moment")] = 1e-8
    weight_decay: Annotated[
        Rate, Meta(description="decoupled decay of matrices, none on biases, norms, positions (0: off)")
    ] = 0.01
    grad_clip: Annotated[NonNegative, Meta(description="bound on the global gradient norm (0: off)")] = 1.0

    # batches
    batch_size: Annotated[int, Meta(ge=1, le=1 << 20, description="sequences in one optimizer step")] = 4
    micro_batch_size: Annotated[
        int,
        Meta(ge=0, le=1 << 20, description="sequences computed at once; must divide batch_size (0: the whole batch)"),
    ] = 2

    # how long
    max_steps: Annotated[Count, Meta(description="optimizer steps from the beginning of the run (0: no bound)")] = 0
    max_epochs: Annotated[PositiveInt, Meta(description="passes over the training text")] = 100
    patience: Annotated[
        Count, Meta(description="epochs without a better eval accuracy before stopping early (0: never)")
    ] = 15
    improvement_threshold: Annotated[
        Share, Meta(description="least gain in eval token accuracy that counts as better")
    ] = 0.005
    epsilon: Annotated[NonNegative, Meta(description="stop when the average loss falls below this")] = 1e-4

    # evaluating, sampling and saving
    eval_every_steps: Annotated[
        Count, Meta(description="score the eval text every N steps, besides each epoch's end (0: only then)")
    ] = 0
    sample_prompt: Annotated[str, Meta(description="what the sample at each evaluation goes on from")] = "It was"
    sample_tokens: Annotated[Count, Meta(description="tokens of that sample (0: none is made)")] = 64
    save_every_steps: Annotated[Count, Meta(description="save ckpt_latest every N steps (0: off)")] = 10_000
    save_every_minutes: Annotated[NonNegative, Meta(description="save ckpt_latest every N minutes (0: off)")] = 5.0
    save_epoch_number: Annotated[Count, Meta(description="save epoch_NNN every N epochs (0: off)")] = 10
    debug: Annotated[bool, Meta(description="log gradient and update norms of each tensor")] = False
    debug_every: Annotated[PositiveInt, Meta(description="steps between two such logs")] = 1000

    # text
    train_file: Annotated[str, Meta(description="training text (empty: train.en under data/, or the shipped one)")] = ""
    eval_file: Annotated[
        str, Meta(description="held-out text (empty: *eval*.en under data/, or val_frac of the training text)")
    ] = ""
    val_frac: Annotated[float, Meta(gt=0.0, lt=1.0, description="share held out when there is no eval file")] = 0.1
    document: Annotated[
        Literal["paragraph", "line", "file"],
        Meta(description="what is one document: a paragraph, a line or the whole file"),
    ] = "paragraph"
    tokenizer: Annotated[
        Literal["pieces", "seed"],
        Meta(description="pieces: lossless; seed: folds to lower-case ASCII as the Go project does"),
    ] = "pieces"

    # tiny overfit
    overfit_tiny: Annotated[
        bool, Meta(description="learn the first lines by heart: a check that training works at all")
    ] = False
    overfit_lines: Annotated[PositiveInt, Meta(description="lines to learn, each a document")] = 100
    overfit_steps: Annotated[PositiveInt, Meta(description="steps to learn them in")] = 2500

    # generation
    temperature: Annotated[
        float,
        Meta(ge=0.0, le=100.0, description="flattens (above 1) or sharpens (below) the choice; 0 takes the likeliest"),
    ] = 0.8
    top_k: Annotated[Count, Meta(description="choose among the k likeliest tokens (0: all)")] = 0
    top_p: Annotated[
        float, Meta(gt=0.0, le=1.0, description="choose among the likeliest tokens that together reach p")
    ] = 0.95
    repetition_penalty: Annotated[
        float, Meta(ge=1.0, le=10.0, description="above 1 makes what was said less likely")
    ] = 1.0
    max_tokens: Annotated[PositiveInt, Meta(description="most tokens in a reply")] = 200

    # the machine
    models_dir: Annotated[str, Meta(min_length=1, description="folder of the checkpoints and metrics.jsonl")] = "models"
    seed: Annotated[
        int, Meta(ge=0, le=(1 << 63) - 1, description="of the initial weights and the order of the text")
    ] = 0
    threads: Annotated[int, Meta(ge=0, le=1024, description="threads that compute (0: one for each core)")] = 0

    @property
    def shape(self) -> ModelShape:
        """The part that sizes the model."""
        return ModelShape(**{name: getattr(self, name) for name in ModelShape.__struct_fields__})

    @property
    def micro_batch(self) -> int:
        """Sequences computed at once: `micro_batch_size`, or the whole batch where that is smaller."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)


# What each preset sets otherwise than the defaults above. nano: about 1M parameters, the first run.
PRESETS: dict[str, dict[str, object]] = {
    "nano": {
        "d_model": 128, "hidden_size": 512, "vocab_size": 3072, "num_heads": 4, "seq_len": 64, "layers": 4,
        "attn_lr": 3e-3, "mlp_lr": 3e-3, "norm_lr": 3e-3, "pos_lr": 3e-3, "unembed_lr": 3e-3,
        "warmup_steps": 100, "decay_steps": 4000, "adam_beta2": 0.99, "weight_decay": 0.1,
        "batch_size": 16, "micro_batch_size": 0, "eval_every_steps": 400, "max_epochs": 20, "patience": 3,
        "improvement_threshold": 0.001,
    },
    "micro": {
        "d_model": 320, "hidden_size": 1280, "vocab_size": 4096, "num_heads": 5, "seq_len": 256, "layers": 7,
        "attn_lr": 1e-3, "mlp_lr": 1e-3, "norm_lr": 1e-3, "pos_lr": 1e-3, "unembed_lr": 1e-3,
        "warmup_steps": 200, "decay_steps": 10_000, "adam_beta2": 0.99, "weight_decay": 0.1,
        "batch_size": 8, "micro_batch_size": 0, "eval_every_steps": 250, "max_epochs": 20, "patience": 3,
        "improvement_threshold": 0.001,
    },
    "mini": {},
}  # fmt: skip

DEFAULT_PRESET = "nano"


def preset(name: str) -> Settings:
    """The settings of a preset. Raises KeyError for an unknown name."""
    return msgspec.convert(PRESETS[name], Settings)
