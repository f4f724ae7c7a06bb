"""Settings of a run: one flat, frozen, typed table of names, types, bounds, defaults and descriptions.

Presets, TOML files, `--set KEY=VALUE`, the other options and checkpoints use the names of this table. The set-up form
and `gpt-tui config` derive their groups, descriptions and checks from it (`gpt_core.config.validation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gpt_core.registry import OPTIMIZERS
from gpt_core.tokenizers.registry import canonical_name, tokenizer_names

# Counts of steps, epochs and tokens are bounded far below what a 64-bit integer or a float represents exactly.
MAX_COUNT = 1 << 50
NO_EPOCH_LIMIT = 1_000_000
"""`max_epochs` of a run that something else ends; this number and larger ones are shown as no limit."""
PositiveInt = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
LearningRate = Annotated[float, Meta(ge=0.0, le=10.0)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
# Bounded so that it stays below 1 in float32, in which the moments and averages are computed.
Beta = Annotated[float, Meta(ge=0.0, le=0.999999)]
# Bounded so that the value and its products with float32 weights are representable in float32.
NonNegative = Annotated[float, Meta(ge=0.0, le=1e30)]
Minutes = Annotated[float, Meta(ge=0.0, le=1e6)]

FileNames = str | tuple[str, ...]
"""One name, or several. Checkpoints hold one name as text."""

LEARNING_RATE = "learning_rate"
"""Name that sets all of `GROUP_RATES`. Stored nowhere: settings and checkpoints hold the rates of the groups."""
GROUP_RATES = ("attn_lr", "mlp_lr", "norm_lr", "pos_lr", "unembed_lr")


def _group(title: str) -> Meta:
    """Begin a group of settings: this one and those after it, up to the next one that begins a group."""
    return Meta(extra={"group": title})


Norm = Literal["layer_norm", "rms_norm"]
Positions = Literal["learned", "rope"]
Activation = Literal["gelu", "relu_squared", "swiglu"]


class ModelShape(msgspec.Struct, frozen=True, omit_defaults=True):
    """Settings that determine the tensors of the model and what it computes from them.

    The sizes are C, F, V, H, T and L in shape comments. The settings after them choose the layers; by default they are
    those of GPT-2.
    """

    d_model: int
    hidden_size: int
    vocab_size: int
    num_heads: int
    seq_len: int
    layers: int
    norm: Norm = "layer_norm"
    qk_norm: bool = False
    positions: Positions = "learned"
    mlp: Activation = "gelu"
    bias: bool = True
    tied_head: bool = True
    x0_shortcut: bool = False

    @property
    def head_size(self) -> int:
        """Channels per attention head (D)."""
        return self.d_model // self.num_heads

    @property
    def other_layers(self) -> str:
        """Settings in which the layers are not GPT-2's, as text: "norm rms_norm, qk_norm true"; "" for none."""
        return layers_text({key: found for key, value in GPT2.items() if (found := getattr(self, key)) != value})


def layers_text(values: Mapping[str, object]) -> str:
    """Return settings of layers as text: "norm rms_norm, qk_norm true"."""
    return ", ".join(f"{key} {str(value).lower()}" for key, value in values.items())


_FIELDS = msgspec.structs.fields(ModelShape)
SIZES = tuple(field.name for field in _FIELDS if field.required)
"""Settings of a model shape that are sizes; the others choose its layers."""
GPT2: dict[str, object] = {field.name: field.default for field in _FIELDS if not field.required}
"""The layers of GPT-2, which are the defaults."""
QWEN3: dict[str, object] = {
    "norm": "rms_norm", "qk_norm": True, "positions": "rope", "mlp": "swiglu", "bias": False, "x0_shortcut": False,
}  # fmt: skip
"""The layers of Qwen3; its head may be tied or not."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of a run. The defaults are those of the Go project, on which the `mini` preset is based."""

    d_model: Annotated[
        int, Meta(ge=1, le=65536, description="channels of the residual stream (C)"), _group("model shape")
    ] = 768
    hidden_size: Annotated[int, Meta(ge=1, le=262144, description="width of the MLP's hidden layer (F)")] = 2048
    vocab_size: Annotated[
        int, Meta(ge=260, le=1 << 20, description="token ids: special ones, 256 bytes, the rest pieces (V)")
    ] = 16384
    num_heads: Annotated[int, Meta(ge=1, le=1024, description="attention heads (H); must divide d_model")] = 12
    seq_len: Annotated[int, Meta(ge=2, le=1 << 20, description="context length in tokens (T)")] = 1024
    layers: Annotated[int, Meta(ge=1, le=1024, description="transformer blocks (L)")] = 8

    norm: Annotated[
        Norm,
        Meta(description="layer_norm: mean 0, variance 1, as GPT-2; rms_norm: mean square 1"),
        _group("architecture"),
    ] = "layer_norm"
    qk_norm: Annotated[bool, Meta(description="RMS norm of the queries and keys of each head")] = False
    positions: Annotated[
        Positions, Meta(description="learned: an embedding, as GPT-2; rope: rotated queries and keys")
    ] = "learned"
    mlp: Annotated[
        Activation, Meta(description="activation of the MLP: gelu, as GPT-2; relu_squared; swiglu, with a gate")
    ] = "gelu"
    bias: Annotated[bool, Meta(description="biases in linear layers and layer norms, as GPT-2")] = True
    tied_head: Annotated[bool, Meta(description="the token embedding is also the matrix of the logits, as GPT-2")] = (
        True
    )
    x0_shortcut: Annotated[
        bool, Meta(description="blocks after the first also see the embedding, times a learned scale")
    ] = False

    warmup_steps: Annotated[Count, Meta(description="steps of linear warm-up"), _group("learning rate")] = 10_000
    decay_steps: Annotated[
        Count, Meta(description="steps of cosine decay after the warm-up (0: constant learning rate)")
    ] = 1_000_000
    min_lr_share: Annotated[
        Fraction, Meta(description="learning rate after the decay, as a fraction of the full rate")
    ] = 0.1
    cooldown: Annotated[
        Fraction,
        Meta(description="last fraction of the run: linear decay of the learning rate (0: off)"),
    ] = 0.0

    optimizer: Annotated[
        str,
        Meta(
            description="adamw: decoupled weight decay; muon: orthogonalized momentum",
            extra={"choices": OPTIMIZERS.names},
        ),
        _group("optimizer"),
    ] = "adamw"
    adam_beta1: Annotated[Beta, Meta(description="decay rate of the first moment")] = 0.9
    adam_beta2: Annotated[Beta, Meta(description="decay rate of the second moment")] = 0.999
    adam_eps: Annotated[float, Meta(ge=1e-30, le=1.0, description="added to the square root of the second moment")] = (
        1e-8
    )
    muon_beta: Annotated[Beta, Meta(description="decay rate of the momentum of muon")] = 0.95
    weight_decay: Annotated[
        LearningRate, Meta(description="decoupled decay; not of biases, norms and positions (0: off)")
    ] = 0.01
    dropout: Annotated[
        float, Meta(ge=0.0, lt=1.0, description="probability that an activation is zeroed in training (0: off)")
    ] = 0.0
    ema: Annotated[Beta, Meta(description="decay rate of the weight average that is evaluated and saved (0: off)")] = (
        0.0
    )
    grad_clip: Annotated[NonNegative, Meta(description="maximum global gradient norm (0: off)")] = 1.0

    batch_size: Annotated[
        int, Meta(ge=1, le=1 << 20, description="sequences per optimizer step"), _group("batches")
    ] = 4
    micro_batch_size: Annotated[
        int,
        Meta(ge=0, le=1 << 20, description="sequences per pass; must divide batch_size (0: all at once)"),
    ] = 2

    max_steps: Annotated[Count, Meta(description="stop at this optimizer step (0: no limit)"), _group("stopping")] = 0
    minutes: Annotated[
        Minutes,
        Meta(description="stop after N minutes, then evaluate once more (0: no limit)"),
    ] = 0.0
    max_epochs: Annotated[PositiveInt, Meta(description="stop after this many passes over the training text")] = 100
    best_metric: Annotated[
        Literal["accuracy", "loss"], Meta(description="score of the best model: eval token accuracy or eval loss")
    ] = "accuracy"
    improvement_threshold: Annotated[
        float,
        Meta(ge=0.0, le=100.0, description="minimum improvement: fraction of accuracy, or nats of loss"),
    ] = 0.005
    patience: Annotated[
        Count,
        Meta(description="after warm-up, stop after N evaluations without improvement (0: never)"),
    ] = 15
    patience_min_steps: Annotated[Count, Meta(description="minimum steps without improvement before such a stop")] = 0
    epsilon: Annotated[NonNegative, Meta(description="stop when the mean step loss of an epoch falls below this")] = (
        1e-4
    )

    eval_every_steps: Annotated[
        Count,
        Meta(description="evaluate every N steps and after epochs (0: only after epochs)"),
        _group("evaluation and saving"),
    ] = 0
    # 0 in checkpoints of earlier versions, which do not hold it
    eval_tokens: Annotated[
        Count,
        Meta(description="eval tokens scored within an epoch (0: all); all are scored after epochs"),
    ] = 0
    sample_prompt: Annotated[
        str, Meta(description="prompt of the sample at each evaluation (empty: words of the eval text)")
    ] = ""
    sample_tokens: Annotated[Count, Meta(description="length of that sample in tokens (0: no samples)")] = 64
    save_every_steps: Annotated[Count, Meta(description="save ckpt_latest every N steps (0: off)")] = 10_000
    save_every_minutes: Annotated[NonNegative, Meta(description="save ckpt_latest every N minutes (0: off)")] = 5.0
    save_epoch_number: Annotated[Count, Meta(description="save epoch_NNN every N epochs (0: off)")] = 10
    debug: Annotated[bool, Meta(description="log the gradient and update norm of every tensor")] = False
    debug_every: Annotated[PositiveInt, Meta(description="steps between two logs of these norms")] = 1000

    train_file: Annotated[
        FileNames,
        Meta(description="training text: files, folders, patterns (empty: train.* in data/)"),
        _group("text"),
    ] = ""
    eval_file: Annotated[
        FileNames, Meta(description="eval text, likewise (empty: *eval*.en, eval.* or val.* in data/)")
    ] = ""
    synthetic_text: Annotated[
        Literal["none", "induction"],
        Meta(description="generated text without a train_file; induction: repeated sequences"),
    ] = "none"
    text_field: Annotated[
        str, Meta(min_length=1, description="field of JSON Lines, CSV and Parquet files that holds the text")
    ] = "text"
    encoding: Annotated[
        str, Meta(description="encoding of texts that are not UTF-8, such as cp1252 (empty: refused)")
    ] = ""
    val_frac: Annotated[
        float, Meta(gt=0.0, lt=1.0, description="fraction of the text held out without an eval file (up to 2M tokens)")
    ] = 0.1
    hold_out: Annotated[bool, Meta(description="evaluate on the end of the training text, not on an eval text")] = False
    document: Annotated[
        Literal["paragraph", "line", "file"],
        Meta(description="one document of a text file: a paragraph, a line or the entire file"),
    ] = "paragraph"
    shuffle: Annotated[
        Literal["windows", "documents"],
        Meta(description="order per epoch: of windows alone, or of documents and then windows"),
    ] = "windows"
    tokenizer: Annotated[
        str,
        Meta(
            description="pieces: lossless; ascii: lower-case ASCII words; bpe: as in GPT-2",
            extra={"choices": tokenizer_names},
        ),
    ] = "pieces"

    init_from: Annotated[
        str,
        Meta(description="checkpoint whose weights and tokenizer the run starts with (empty: none)"),
        _group("fine-tuning"),
    ] = ""
    freeze: Annotated[
        str,
        Meta(description="frozen: embedding, positions, layers N-M, final norm, head (empty: none)"),
    ] = ""

    overfit_tiny: Annotated[
        bool, Meta(description="self-test: memorize the first lines of the training text"), _group("self-test")
    ] = False
    overfit_lines: Annotated[PositiveInt, Meta(description="lines to memorize, one document each")] = 100
    overfit_steps: Annotated[PositiveInt, Meta(description="optimizer steps of the self-test")] = 2500

    temperature: Annotated[
        float,
        Meta(ge=0.0, le=100.0, description="above 1 flattens the distribution, below 1 sharpens it; 0 = greedy"),
        _group("generation"),
    ] = 0.8
    top_k: Annotated[Count, Meta(description="sample from the k most probable tokens (0: all)")] = 0
    top_p: Annotated[
        float, Meta(gt=0.0, le=1.0, description="sample from the smallest set with total probability p (1: off)")
    ] = 0.95
    repetition_penalty: Annotated[
        float, Meta(ge=1.0, le=10.0, description="above 1 makes tokens already in the text less probable (1: off)")
    ] = 1.0
    weights: Annotated[
        Literal["float32", "bfloat16", "int8"],
        Meta(description="format of the weights for generating; fewer bits decode faster"),
    ] = "float32"
    max_tokens: Annotated[PositiveInt, Meta(description="maximum length of a reply in tokens")] = 200

    models_dir: Annotated[
        str, Meta(min_length=1, description="folder for checkpoints and metrics.jsonl"), _group("system")
    ] = "models"
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1, description="random seed of initial weights and shuffling")] = 0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Meta(description="format of matrix products; auto: bfloat16 where it is faster here"),
    ] = "float32"
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="compute threads (0: one per core, at most OMP_NUM_THREADS)")
    ] = 0

    exchange: Annotated[
        Literal["float32", "bfloat16"],
        Meta(description="format of exchanged gradients or changes; bfloat16: half the bytes"),
        _group("several machines"),
    ] = "float32"
    sync_every_steps: Annotated[
        Count, Meta(description="local steps of a rank between two exchanges (0: exchange each step)")
    ] = 0
    outer_lr: Annotated[
        float, Meta(gt=0.0, le=10.0, description="learning rate of the outer optimizer, with sync_every_steps")
    ] = 0.7
    outer_momentum: Annotated[Beta, Meta(description="Nesterov momentum of the outer optimizer (0: off)")] = 0.5
    heartbeat_s: Annotated[
        float, Meta(ge=1.0, le=86_400.0, description="end the run if a rank does not respond for N seconds")
    ] = 60.0

    attn_lr: Annotated[LearningRate, Meta(description="learning rate of the attention weights"), _group("advanced")] = (
        3e-4
    )
    mlp_lr: Annotated[LearningRate, Meta(description="learning rate of the MLP weights")] = 3e-4
    norm_lr: Annotated[LearningRate, Meta(description="learning rate of the norms")] = 3e-4
    pos_lr: Annotated[LearningRate, Meta(description="learning rate of a learned position embedding")] = 3e-4
    unembed_lr: Annotated[LearningRate, Meta(description="learning rate of the token embedding and the head")] = 3e-5
    init_projections: Annotated[
        Literal["scaled", "zero"], Meta(description="initial output projections; zero: blocks start as the identity")
    ] = "scaled"
    allow_binary: Annotated[
        bool, Meta(description="train on the bytes of files that are not plain text; false refuses them")
    ] = False

    def __post_init__(self) -> None:
        """Replace the former name of a tokenizer, which older checkpoints and config files hold, by the present one."""
        msgspec.structs.force_setattr(self, "tokenizer", canonical_name(self.tokenizer))

    @property
    def shape(self) -> ModelShape:
        """Settings that size the model."""
        return ModelShape(**{name: getattr(self, name) for name in ModelShape.__struct_fields__})

    @property
    def learning_rate(self) -> float | None:
        """Learning rate of all parameters, None if those of the groups differ."""
        rates = {getattr(self, name) for name in GROUP_RATES}
        return rates.pop() if len(rates) == 1 else None

    @property
    def micro_batch(self) -> int:
        """Sequences per pass: `micro_batch_size`, or `batch_size` where that is smaller or `micro_batch_size` is 0."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)

    @property
    def micro_batches(self) -> int:
        """Passes per optimizer step."""
        return self.batch_size // self.micro_batch
