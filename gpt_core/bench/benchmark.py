"""Benchmark of training, prefill and decoding, next to the limits of the machine, all measured in one run.

Training steps are those of a real run on the training text, timed from one completed step to the next. Rates are of
medians. The limits of the machine are measured between the steps rather than before or after, so that ratios to them
also hold on a machine with other load.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Generator

import msgspec

from gpt_core.bench.estimate import model_state_bytes
from gpt_core.bench.hardware import bfloat16_meter, memory_read_meter, peak_memory, processor_name, sgemm_meter
from gpt_core.bench.profiler import PARTS, Profile, Profiler, overhead_per_call
from gpt_core.bench.result import Benchmark, Decoding, Machine, Memory, Part, Prompt, Training
from gpt_core.config.presets import shape_name
from gpt_core.config.settings import MAX_COUNT, ModelShape, Settings
from gpt_core.errors import GptError
from gpt_core.kernels import LEVEL, available_cores, threads
from gpt_core.model.flops import prefill_flops, step_flops
from gpt_core.model.inference import Decoder
from gpt_core.model.memory import activation_bytes, decode_bytes
from gpt_core.model.parameters import frozen_names, parameter_count
from gpt_core.model.stored_weights import StoredWeights, WeightFormat
from gpt_core.progress import Progress, ignore_progress
from gpt_core.training.events import StepCompleted, UpdateSkipped
from gpt_core.training.request import RunRequest
from gpt_core.training.setup import open_run
from gpt_core.training.trainer import Trainer

# Measured steps, after one warm-up step: as many as take MEASURE_S together, within these bounds.
MIN_STEPS, MIN_SLOW_STEPS, MAX_STEPS = 5, 3, 100
SLOW_STEP_S = 4.0  # steps at least this long need MIN_SLOW_STEPS alone
MEASURE_S = 3.0
LIMIT_FRACTION = 0.25  # seconds spent on measuring a limit, per second of what is compared with it

PROMPT_TOKENS = 512  # at most half the context
DECODED_TOKENS = 64  # after the prompt, at most the rest of the context
ROUNDS = 5  # of prefill and decoding, after one warm-up round


class StepMeasurement(msgspec.Struct, frozen=True):
    """Duration of one step and of its parts, and the tokens that it trained on, without padding."""

    seconds: float
    profile: Profile
    tokens: int


class TrainingMeasurement(msgspec.Struct, frozen=True):
    """All measured steps, the FLOP per second of large products meanwhile, and peak memory in bytes."""

    steps: list[StepMeasurement]
    sgemm: float
    peak: int | None
    bfloat16: float | None = None
    """FLOP per second of large bfloat16 products, if the steps use these"""


class InferenceMeasurement(msgspec.Struct, frozen=True):
    """Median seconds of a prefill and of decoding one token, and the bytes per second read meanwhile."""

    prompt_s: float
    token_s: float
    bytes_per_s: float


def run_benchmark(settings: Settings, *, steps: int = 0, progress: Progress = ignore_progress) -> Benchmark:
    """Run the benchmark with these settings. It writes no files but the token cache of the texts.

    Args:
        settings: Settings of the run that is measured.
        steps: Number of steps to measure; 0 chooses it by the time of a step.
        progress: Receives the phase and the fraction done.

    Raises:
        GptError: The run cannot be opened (see `open_run`), or ends before enough steps are measured.
    """
    shape, batch = settings.shape, settings.micro_batch
    with tempfile.TemporaryDirectory(prefix="gpt-tui-bench-") as folder:
        trainer = open_run(RunRequest(benchmark_settings(settings, folder)), progress)
        trainer.state.evaluation_due = False  # else fine-tuning would be timed with its first evaluation
        training = measure_training(trainer, steps, progress)
    length, state_bytes = trainer.run.texts.windows.seq_len, model_state_bytes(settings)
    parameters, tokens = trainer.parameters, corpus_tokens(trainer)
    del trainer  # frees gradients and optimizer state
    inference = measure_inference(StoredWeights(parameters, settings.weights), tokens, progress)
    n_threads = threads.get_threads()
    return Benchmark(
        machine=Machine(
            processor=processor_name(), cores=available_cores(), threads=n_threads, level=LEVEL,
            sgemm_gflop_per_s=training.sgemm / 1e9, read_gb_per_s=inference.bytes_per_s / 1e9,
        ),
        preset=shape_name(shape), parameters=parameter_count(shape), shape=shape,
        batch_size=settings.batch_size, micro_batch_size=batch, time=length,
        training=training_result(settings, length, training, overhead_per_call(parameters)),
        memory=Memory(
            training.peak, state_bytes,
            activation_bytes(shape, batch, length, n_threads, "bfloat16" if training.bfloat16 else "float32"),
        ),
        prompt=prompt_result(shape, inference.prompt_s, training.sgemm),
        decoding=decoding_result(shape, inference.token_s, inference.bytes_per_s, settings.weights),
    )  # fmt: skip


# ---- training


def benchmark_settings(settings: Settings, folder: str) -> Settings:
    """Return the settings of a run in `folder` that takes steps and does nothing else, until it is stopped."""
    return msgspec.structs.replace(
        settings, models_dir=folder, max_steps=0, minutes=0.0, max_epochs=MAX_COUNT, overfit_steps=MAX_COUNT,
        patience=0, epsilon=0.0, eval_every_steps=0, sample_tokens=0, save_every_steps=0, save_every_minutes=0.0,
        save_epoch_number=0, debug=False,
    )  # fmt: skip


def measure_training(trainer: Trainer, steps: int, progress: Progress) -> TrainingMeasurement:
    """Measure the steps of a run after the first.

    Raises:
        GptError: The run ends before enough steps are measured.
    """
    measured: list[StepMeasurement] = []
    with contextlib.closing(timed_steps(trainer)) as timed:
        next(timed, None)  # warm-up: the first step allocates
        peak, sgemm = peak_memory(), sgemm_meter()  # in this order: the meter's matrices are not the run's memory
        bfloat16 = bfloat16_meter() if trainer.settings.precision == "bfloat16" else None
        for step in timed:
            measured.append(step)
            seconds = [step.seconds for step in measured]
            for meter in (sgemm, bfloat16):
                if meter is not None:
                    meter.repeat_until(LIMIT_FRACTION * sum(seconds))
            required = required_steps(seconds, steps)
            progress("training steps", len(measured) / required)
            if len(measured) >= required:
                return TrainingMeasurement(measured, sgemm.rate, peak, bfloat16.rate if bfloat16 else None)
    raise GptError(f"the run ended after {trainer.step} steps, before enough could be measured")


def timed_steps(trainer: Trainer) -> Generator[StepMeasurement]:
    """Yield each step of a run with the time since the event before it; then stop the run without saving."""
    profiler = Profiler(trainer.parameters)
    profiler.add(trainer.run.texts.windows, "read", "data")
    profiler.add_optimizer(trainer.run.optimizer)
    with contextlib.closing(trainer.events()) as events, profiler:
        try:
            started, before = time.perf_counter(), trainer.state.tokens
            for event in events:
                seconds, profile = time.perf_counter() - started, profiler.take()
                if isinstance(event, (StepCompleted, UpdateSkipped)):
                    yield StepMeasurement(seconds, profile, trainer.state.tokens - before)
                    before = trainer.state.tokens
                    trainer.state.evaluation_due = False  # of an epoch: its results are not used
                    profiler.take()
                started = time.perf_counter()
        finally:
            trainer.requests.stop(save=False)


def required_steps(seconds: list[float], requested: int) -> int:
    """Return how many steps to measure, given the durations so far; `requested` (if not 0) overrides the rule."""
    if requested or not seconds:
        return requested or MIN_STEPS
    median = statistics.median(seconds)
    if median >= SLOW_STEP_S:
        return MIN_SLOW_STEPS
    return max(MIN_STEPS, min(MAX_STEPS, round(MEASURE_S / median)))


def training_result(settings: Settings, length: int, training: TrainingMeasurement, overhead_s: float) -> Training:
    """Return the result of the measured steps. Parts are those of the median step, so that they add up to it."""
    in_order = sorted(training.steps, key=lambda step: step.seconds)
    median = in_order[(len(in_order) - 1) // 2]
    frozen = frozen_names(settings.shape, settings.freeze)
    flops = step_flops(settings.shape, settings.batch_size, length, frozen)
    flops_of_part = {
        "attention_linears": flops.attention_linears,
        "attention_scores": flops.attention_scores,
        "mlp_linears": flops.mlp_linears,
        "loss": flops.logits,
    }
    seconds = {part: median.profile.seconds[part] for part in PARTS}
    seconds["rest"] = median.seconds - sum(seconds.values())
    rate = flops.total / median.seconds
    limit = training.bfloat16 or training.sgemm
    return Training(
        steps=len(in_order), step_s=median.seconds, fastest_s=in_order[0].seconds, slowest_s=in_order[-1].seconds,
        tokens_per_s=statistics.fmean(step.tokens for step in in_order) / median.seconds,
        gflop=flops.total / 1e9, gflop_per_s=rate / 1e9, sgemm_share=rate / training.sgemm,
        precision="bfloat16" if training.bfloat16 else "float32",
        product_gflop_per_s=limit / 1e9, product_share=rate / limit,
        parts=[
            Part(part, spent, spent / median.seconds, flops_of_part.get(part, 0) / 1e9)
            for part, spent in seconds.items()
        ],
        timing_share=overhead_s * median.profile.calls / median.seconds,
    )  # fmt: skip


# ---- prefill and decoding


def prompt_tokens(shape: ModelShape) -> int:
    """Return the length of the prompt."""
    return min(PROMPT_TOKENS, shape.seq_len // 2)


def decoded_tokens(shape: ModelShape) -> int:
    """Return the number of tokens that are decoded after the prompt."""
    return min(DECODED_TOKENS, shape.seq_len - prompt_tokens(shape))


def corpus_tokens(trainer: Trainer) -> list[int]:
    """Return the prompt and the tokens after it, from the start of the text, which repeats if it is shorter."""
    count = prompt_tokens(trainer.shape) + decoded_tokens(trainer.shape)
    tokens: list[int] = trainer.run.texts.train.read(0, count).tolist()
    return (tokens * (count // len(tokens) + 1))[:count]


def measure_inference(weights: StoredWeights, tokens: list[int], progress: Progress) -> InferenceMeasurement:
    """Measure the prefill of the prompt and the decoding of the tokens after it."""
    decoder, prompt, memory_read = Decoder(weights), prompt_tokens(weights.shape), memory_read_meter()
    prompts: list[float] = []
    decoded: list[float] = []
    for number in range(ROUNDS + 1):
        progress("prefill and decoding", number / (ROUNDS + 1))
        decoder.reset()
        started = time.perf_counter()
        decoder.prefill(tokens[:prompt])
        prefill_s = time.perf_counter() - started
        decode_s = []
        for token in tokens[prompt:]:
            started = time.perf_counter()
            decoder.decode(token)
            decode_s.append(time.perf_counter() - started)
        if number:  # round 0 is the warm-up
            prompts.append(prefill_s)
            decoded += decode_s
            memory_read.repeat_until(LIMIT_FRACTION * sum(decoded))
    return InferenceMeasurement(statistics.median(prompts), statistics.median(decoded), memory_read.rate)


def prompt_result(shape: ModelShape, seconds: float, sgemm: float) -> Prompt:
    """Return the result for the median duration of a prefill."""
    tokens = prompt_tokens(shape)
    rate = prefill_flops(shape, tokens).total / seconds
    return Prompt(tokens, tokens / seconds, rate / 1e9, rate / sgemm)


def decoding_result(
    shape: ModelShape, seconds: float, read_bytes_per_s: float, weights: WeightFormat = "float32"
) -> Decoding:
    """Return the result for the median duration of a token."""
    middle = prompt_tokens(shape) + decoded_tokens(shape) // 2
    size = decode_bytes(shape, middle, weights)
    return Decoding(1 / seconds, size, size / seconds / 1e9, size / seconds / read_bytes_per_s, weights)
