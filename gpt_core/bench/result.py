"""Result of a benchmark. Its fields are the keys that `gpt-tui bench --json` prints."""

from __future__ import annotations

import msgspec

from gpt_core.config.settings import ModelShape


class Machine(msgspec.Struct, frozen=True):
    """The machine, and its limits on the threads in use."""

    processor: str
    cores: int
    threads: int
    level: str
    """instruction-set level of the kernels in use (the environment variable GPT_TUI_LEVEL selects another)"""
    sgemm_gflop_per_s: float
    """rate of a large product of float32 matrices"""
    read_gb_per_s: float
    """rate of reading memory"""


class Part(msgspec.Struct, frozen=True):
    """One part of a training step."""

    part: str
    """one of `gpt_core.bench.profiler.PARTS`, or "rest" for everything outside the kernels"""
    seconds: float
    share: float
    """fraction of the step's time"""
    gflop: float
    """GFLOP of the model (see `gpt_core.model.flops`); 0 for parts without matrix products"""


class Training(msgspec.Struct, frozen=True):
    """The step of median duration, and its parts."""

    steps: int
    """number of measured steps"""
    step_s: float
    fastest_s: float
    slowest_s: float
    tokens_per_s: float
    gflop: float
    gflop_per_s: float
    sgemm_share: float
    """ratio of `gflop_per_s` to the machine's rate"""
    precision: str
    """format of the products, float32 or bfloat16"""
    product_gflop_per_s: float
    """rate of a large product in this format: SGEMM's for float32"""
    product_share: float
    """ratio of `gflop_per_s` to that rate"""
    parts: list[Part]
    timing_share: float
    """fraction of the step's time that timing the parts takes"""


class Memory(msgspec.Struct, frozen=True):
    """Memory in bytes."""

    peak: int | None
    """of the process after its first step, when all buffers exist; None if the system does not report it"""
    weights: int
    """weights, gradients and optimizer state"""
    activations: int
    """buffers of the forward and backward pass"""


class Decoding(msgspec.Struct, frozen=True):
    """Decoding one sequence token by token with a KV cache, without sampling."""

    tokens_per_s: float
    bytes_per_token: int
    """weights and KV cache that are read for the token in the middle of those measured"""
    gb_per_s: float
    read_share: float
    """ratio of `gb_per_s` to the machine's rate"""
    weights: str = "float32"
    """format of the weights"""


class Prompt(msgspec.Struct, frozen=True):
    """Prefill of a prompt into an empty KV cache."""

    tokens: int
    tokens_per_s: float
    gflop_per_s: float
    sgemm_share: float
    """ratio of `gflop_per_s` to the machine's rate"""


class Benchmark(msgspec.Struct, frozen=True):
    """Everything that one benchmark measures."""

    machine: Machine
    preset: str
    parameters: int
    shape: ModelShape
    batch_size: int
    micro_batch_size: int
    time: int
    """tokens per sequence in training"""
    training: Training
    memory: Memory
    prompt: Prompt
    decoding: Decoding
