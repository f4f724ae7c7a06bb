"""How fast this machine trains and writes, next to what it can do at most: everything measured in one run.

The steps are those of a trainer on the training text, from one finished step to the next. Rates are of medians. The
machine's limits are measured in between, not before or after, so that a share of them also holds on a machine that has
other work to do.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Generator

import msgspec

from gpt_core.bench.hardware import memory_read_meter, peak_memory, processor_name, sgemm_meter
from gpt_core.bench.profiler import PARTS, Profile, Profiler, overhead_per_call
from gpt_core.bench.result import Benchmark, Decoding, Machine, Memory, Part, Prompt, Training
from gpt_core.config.settings import MAX_COUNT, ModelShape, Settings
from gpt_core.errors import GptError
from gpt_core.kernels import LEVEL, available_cores, threads
from gpt_core.model import flops
from gpt_core.model.inference import Decoder
from gpt_core.model.parameters import Parameters, parameter_count
from gpt_core.progress import Progress, ignore_progress
from gpt_core.training.events import StepCompleted, UpdateSkipped
from gpt_core.training.setup import open_run
from gpt_core.training.trainer import Trainer

# Steps that are measured, after a first one that is not: at least 5, or 3 where a step takes this long; more than 5
# while they take less than MEASURE_S together.
LEAST_STEPS, LEAST_SLOW_STEPS, MOST_STEPS = 5, 3, 100
SLOW_STEP_S = 4.0
MEASURE_S = 3.0
GAUGE_SHARE = 0.25  # seconds spent on a limit for each second of what is held to it

PROMPT_TOKENS = 512  # or half the context, where that is less
DECODED_TOKENS = 64  # after the prompt, or as many as the context has left
ROUNDS = 5  # of reading the prompt and decoding, after one that is not measured


class Step(msgspec.Struct, frozen=True):
    """One step as it was measured."""

    seconds: float
    profile: Profile


class Steps(msgspec.Struct, frozen=True):
    """All steps that were measured, the operations a second of large products meanwhile, and the peak of memory."""

    steps: list[Step]
    sgemm: float
    peak: int | None


class Reading(msgspec.Struct, frozen=True):
    """Median seconds of reading the prompt and of decoding a token, and the bytes a second read meanwhile."""

    prompt_s: float
    token_s: float
    memory: float


def run_benchmark(
    settings: Settings, *, preset_name: str = "", steps: int = 0, progress: Progress = ignore_progress
) -> Benchmark:
    """Measures with these settings; nothing is left in any folder but the caches of the text.

    `steps` is the number of steps to measure (0: by the rule above). Raises what `open_run` raises, and GptError for a
    run that ends by itself before that.
    """
    shape, batch = settings.shape, settings.micro_batch
    with tempfile.TemporaryDirectory(prefix="gpt-tui-bench-") as folder:
        trainer = open_run(undisturbed(settings, folder), preset_name=preset_name, progress=progress)
        measured = measure_training(trainer, steps, progress)
    length, weights_bytes = trainer.run.windows.seq_len, trainer.memory_bytes
    parameters, prompt = trainer.parameters, text_tokens(trainer)
    del trainer  # and with it the gradients and moments
    reading = measure_inference(parameters, prompt, progress)
    sgemm, count = measured.sgemm, threads.get_threads()
    return Benchmark(
        machine=Machine(processor_name(), available_cores(), count, LEVEL, sgemm / 1e9, reading.memory / 1e9),
        preset=preset_name, parameters=parameter_count(shape), shape=shape,
        batch_size=settings.batch_size, micro_batch_size=batch, time=length,
        training=training_result(settings, length, measured, overhead_per_call(parameters)),
        memory=Memory(measured.peak, weights_bytes, flops.activation_bytes(shape, batch, length, count)),
        prompt=prompt_result(shape, reading.prompt_s, sgemm),
        decoding=decoding_result(shape, reading.token_s, reading.memory),
    )  # fmt: skip


# ---- training


def undisturbed(settings: Settings, folder: str) -> Settings:
    """The same settings for a run that does nothing but steps, as long as they are asked for."""
    return msgspec.structs.replace(
        settings, models_dir=folder, max_steps=0, max_epochs=MAX_COUNT, overfit_steps=MAX_COUNT, patience=0,
        epsilon=0.0, eval_every_steps=0, sample_tokens=0, save_every_steps=0, save_every_minutes=0.0,
        save_epoch_number=0, debug=False,
    )  # fmt: skip


def measure_training(trainer: Trainer, steps: int, progress: Progress) -> Steps:
    """The steps of a run, but for its first. Raises GptError if it ends before there are enough."""
    measured: list[Step] = []
    with contextlib.closing(every_step(trainer)) as taken:
        next(taken, None)  # the first step allocates, and is not counted
        peak, sgemm = peak_memory(), sgemm_meter()  # in this order: the products take memory of their own
        for step in taken:
            measured.append(step)
            seconds = [step.seconds for step in measured]
            sgemm.repeat_until(GAUGE_SHARE * sum(seconds))
            wanted = required_steps(seconds, steps)
            progress("training steps", len(measured) / wanted)
            if len(measured) >= wanted:
                return Steps(measured, sgemm.rate, peak)
    raise GptError(f"the run ended by itself after {trainer.step} steps, before enough could be measured")


def every_step(trainer: Trainer) -> Generator[Step]:
    """The steps of a run, each with the time since the event before it. The run is ended without a save."""
    profiler = Profiler(trainer.parameters)
    profiler.watch(trainer.run.windows, "read", "data")
    with contextlib.closing(trainer.events()) as events, profiler:
        try:
            started = time.perf_counter()
            for event in events:
                seconds, profile = time.perf_counter() - started, profiler.take()
                if isinstance(event, (StepCompleted, UpdateSkipped)):
                    yield Step(seconds, profile)
                    profiler.take()
                started = time.perf_counter()
        finally:
            trainer.requests.stop(save=False)


def required_steps(seconds: list[float], asked: int) -> int:
    """How many steps are to be measured, as far as can be said after these."""
    if asked or not seconds:
        return asked or LEAST_STEPS
    median = statistics.median(seconds)
    if median >= SLOW_STEP_S:
        return LEAST_SLOW_STEPS
    return max(LEAST_STEPS, min(MOST_STEPS, round(MEASURE_S / median)))


def training_result(settings: Settings, length: int, measured: Steps, overhead_s: float) -> Training:
    """From the measured steps. The parts are those of one step, the median, so that they add up to it."""
    in_order = sorted(measured.steps, key=lambda step: step.seconds)
    median = in_order[(len(in_order) - 1) // 2]
    counted = flops.step_flops(settings.shape, settings.batch_size, length)
    operations = {
        "attention_linears": counted.attention_linears,
        "attention_scores": counted.attention_scores,
        "mlp_linears": counted.mlp_linears,
        "loss": counted.logits,
    }
    seconds = {part: median.profile.seconds[part] for part in PARTS}
    seconds["rest"] = median.seconds - sum(seconds.values())
    rate = counted.total / median.seconds
    return Training(
        steps=len(in_order), step_s=median.seconds, fastest_s=in_order[0].seconds, slowest_s=in_order[-1].seconds,
        tokens_per_s=settings.batch_size * length / median.seconds,
        gflop=counted.total / 1e9, gflop_per_s=rate / 1e9, sgemm_share=rate / measured.sgemm,
        parts=[
            Part(part, spent, spent / median.seconds, operations.get(part, 0) / 1e9) for part, spent in seconds.items()
        ],
        timing_share=overhead_s * median.profile.calls / median.seconds,
    )  # fmt: skip


# ---- reading and decoding


def prompt_tokens(shape: ModelShape) -> int:
    """The length of the prompt that is read."""
    return min(PROMPT_TOKENS, shape.seq_len // 2)


def decoded_tokens(shape: ModelShape) -> int:
    """How many tokens are decoded after it."""
    return min(DECODED_TOKENS, shape.seq_len - prompt_tokens(shape))


def text_tokens(trainer: Trainer) -> list[int]:
    """As many tokens of the text as are read and decoded; from the beginning again where it is shorter."""
    count = prompt_tokens(trainer.shape) + decoded_tokens(trainer.shape)
    tokens: list[int] = trainer.run.train_text.read(0, count).tolist()
    return (tokens * (count // len(tokens) + 1))[:count]


def measure_inference(parameters: Parameters, tokens: list[int], progress: Progress) -> Reading:
    """Reads the prompt and decodes the tokens after it, a few times."""
    decoder, first, memory = Decoder(parameters), prompt_tokens(parameters.shape), memory_read_meter()
    prompts: list[float] = []
    decoded: list[float] = []
    for number in range(ROUNDS + 1):
        progress("reading and decoding", number / (ROUNDS + 1))
        decoder.reset()
        started = time.perf_counter()
        decoder.prefill(tokens[:first])
        seconds = [time.perf_counter() - started]
        for token in tokens[first:]:
            started = time.perf_counter()
            decoder.decode(token)
            seconds.append(time.perf_counter() - started)
        if number:
            prompts.append(seconds[0])
            decoded += seconds[1:]
            memory.repeat_until(GAUGE_SHARE * sum(decoded))
    return Reading(statistics.median(prompts), statistics.median(decoded), memory.rate)


def prompt_result(shape: ModelShape, seconds: float, sgemm: float) -> Prompt:
    """From the median time of one prompt."""
    tokens = prompt_tokens(shape)
    rate = flops.prefill_flops(shape, tokens).total / seconds
    return Prompt(tokens, tokens / seconds, rate / 1e9, rate / sgemm)


def decoding_result(shape: ModelShape, seconds: float, read: float) -> Decoding:
    """From the median time of one token."""
    middle = prompt_tokens(shape) + decoded_tokens(shape) // 2
    size = flops.decode_bytes(shape, middle)
    return Decoding(1 / seconds, size, size / seconds / 1e9, size / seconds / read)
