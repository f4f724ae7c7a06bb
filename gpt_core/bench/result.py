"""What a benchmark found: the values that `gpt-tui bench --json` prints, under these names."""

from __future__ import annotations

import msgspec

from gpt_core.config.settings import ModelShape


class Machine(msgspec.Struct, frozen=True):
    """The machine, and its limits on these threads."""

    processor: str
    cores: int
    threads: int
    level: str
    """of instructions, that the kernels in use were compiled for (GPT_TUI_LEVEL asks for another)"""
    sgemm_gflop_per_s: float
    read_gb_per_s: float


class Part(msgspec.Struct, frozen=True):
    """One part of a step."""

    part: str
    """one of `gpt_core.bench.profiler.PARTS`, or "rest" for all that is between the kernels"""
    seconds: float
    share: float
    """of the step's time"""
    gflop: float
    """of the model's arithmetic (see `gpt_core.model.flops`); 0 for parts that are no matrix products"""


class Training(msgspec.Struct, frozen=True):
    """The step whose time is the median, and its parts."""

    steps: int
    step_s: float
    fastest_s: float
    slowest_s: float
    tokens_per_s: float
    gflop: float
    gflop_per_s: float
    sgemm_share: float
    parts: list[Part]
    timing_share: float
    """of the step's time that measuring the parts has taken"""


class Memory(msgspec.Struct, frozen=True):
    """Bytes. `peak` is of the whole process after its first step, when all is allocated that training needs; None
    where the system does not tell."""

    peak: int | None
    weights: int
    """with gradients and Adam's moments"""
    activations: int


class Decoding(msgspec.Struct, frozen=True):
    """Decoding one sequence token by token with a cache of keys and values; sampling is not in it."""

    tokens_per_s: float
    bytes_per_token: int
    """of weights and cache that are read for the token in the middle of those measured"""
    gb_per_s: float
    read_share: float


class Prompt(msgspec.Struct, frozen=True):
    """Reading a prompt into an empty cache."""

    tokens: int
    tokens_per_s: float
    gflop_per_s: float
    sgemm_share: float


class Benchmark(msgspec.Struct, frozen=True):
    """All of it."""

    machine: Machine
    preset: str
    parameters: int
    shape: ModelShape
    batch_size: int
    micro_batch_size: int
    time: int
    """tokens of a sequence in training"""
    training: Training
    memory: Memory
    prompt: Prompt
    decoding: Decoding
