"""Key latency of the app while `mini` trains on every core, and the cost of the app in training throughput.

    python benchmarks/app.py [keys|cost|inside] [--rounds N] [--json]

keys: the real app in a pseudo terminal, training `mini`. Each key has an effect on the screen that nothing else draws.
Latency is the time from writing the key to reading the end of that effect. Keys are pressed at random times, so that
they coincide with redraws of the charts and ends of steps. Once per round a checkpoint (690 MB) is verified while the
next keys are pressed.
cost: tokens per second of `nano`, headless and in the app with the Train tab open, alternating; the ratio of medians.
inside: cost of the open Inside tab in training throughput, from CPU times, which hardly depend on other programs. Each
view is left alone first, then refreshed once per second. The tab refreshes after each evaluation, so the CPU time of
computing and drawing a refresh is divided by that of the steps between two evaluations; the CPU time of a view that is
left alone, beyond that of a closed tab, by the time of all cores. Linux only: threads are identified by nice value.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import random
import select
import statistics
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from gpt_core.config.presets import preset
from gpt_core.thread_priority import MAX_NICE
from gpt_core.training.events import StepCompleted
from gpt_core.training.metrics_log import read_metrics
from gpt_tui.shared.thread_priority import CHECKING, TRAINING
from gpt_tui.tabs.inside.registry import VIEWS

SIZE = (36, 120)  # rows, columns
STARTED_S, ANSWER_S = 300.0, 120.0
LEFT_OUT_S, MEASURED_S = 6.0, 20.0
ASSUMED_STEPS = 250  # between two evaluations, where there are none within an epoch


class Press(NamedTuple):
    """Keys as a terminal sends them, and text that is drawn only in response to them.

    Escape is not measured: what it means is known only when nothing has followed it for a tenth of a second.
    """

    name: str
    keys: str
    drawn: str
    is_measured: bool = True


# from tab to tab and back, so that each press starts from the screen that the one before leaves
TOUR = (
    Press("tab: Chat", "\x1bOR", "temperature"),
    *(Press("a letter in the prompt", letter, letter) for letter in "ЖЩЮ"),
    Press("tab: Checkpoints", "\x1bOS", "tokenizer"),
    Press("the checkpoint read through", "v", "", is_measured=False),
    Press("tab: Runs", "\x1b[15~", "runs"),
    Press("tab: Inside", "\x1b[17~", "Knock-out"),
    Press("the tokens computed", "r", "surprise in bits", is_measured=False),
    Press("first token", "\x1b[H", "token 1 of"),
    Press("next token", "\x1b[C", "token 2 of"),
    Press("tab: Train", "\x1bOQ", "smoothed"),
    Press("log scale", "l", "log scale"),
    Press("linear scale", "l", "loss"),
    Press("help", "\x1bOP", "Pause after this step"),
    Press("help closed", "\x1bOP", "smoothed"),
    Press("palette", "\x10", "earch for commands"),  # the cursor covers the first letter
    Press("palette closed", "\x1b", "smoothed", is_measured=False),
)


class Terminal:
    """A program in a pseudo terminal whose output is read without delay."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, SIZE)
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(follower)

    def press(self, keys: str) -> None:
        """Send the key."""
        os.write(self._leader, keys.encode())

    def until(self, words: str, timeout_s: float) -> float:
        """Return the seconds until the program has drawn `words`; raise TimeoutError if it does not."""
        started, seen, wanted = time.perf_counter(), b"", words.encode()
        while (passed := time.perf_counter() - started) < timeout_s:
            seen = (seen + self._read(timeout_s - passed))[-1_000_000:]
            if wanted in seen:
                return time.perf_counter() - started
        raise TimeoutError(f"{words!r} was not drawn within {timeout_s:g} s: {seen[-2000:]!r}")

    def read_for(self, seconds: float) -> None:
        """Read and discard output."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self._read(left)

    def _read(self, wait_s: float) -> bytes:
        if select.select([self._leader], [], [], wait_s)[0]:
            return os.read(self._leader, 1 << 16)
        return b""

    def end(self) -> None:
        """Send Ctrl+C and wait for the program to exit."""
        self.press("\x03")
        while self.process.poll() is None:
            try:
                self._read(0.1)
            except OSError:
                break
        self.process.wait()
        os.close(self._leader)


@contextmanager
def app(*options: str) -> Iterator[tuple[Terminal, Path]]:
    """Start the app in a new folder and yield it once it trains."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gpt_tui", "--overwrite", *options]
        terminal = Terminal(command, Path(folder))
        try:
            terminal.until("training", STARTED_S)
            yield terminal, Path(folder, "models", "metrics.jsonl")
        finally:
            terminal.end()


# ---- key to paint


def key_to_paint(preset: str, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds from key to paint, by action."""
    found: dict[str, list[float]] = {}
    with app("--preset", preset) as (terminal, log):
        while not any(isinstance(event, StepCompleted) for event in read_metrics(log)):
            terminal.read_for(0.5)
        terminal.press("w")
        while not log.with_name("ckpt_latest.safetensors").exists():
            terminal.read_for(0.5)
        for number in range(rounds + 1):
            for press in TOUR:
                terminal.read_for(random.uniform(0.15, 0.6))
                terminal.press(press.keys)
                answered_s = terminal.until(press.drawn, ANSWER_S)
                if number and press.is_measured:  # the first time, the screen is composed
                    found.setdefault(press.name, []).append(1000 * answered_s)
    return found


def keys_report(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return count, median and 99th percentile, per action and overall."""
    every = [value for values in found.values() for value in values]
    return {
        name: {
            "presses": len(values),
            "p50_ms": round(statistics.median(values), 1),
            "p99_ms": round(statistics.quantiles(values, n=100, method="inclusive")[98], 1),
        }
        for name, values in [*found.items(), ("all", every)]
    }


# ---- training beside the app


def tokens_per_s(log: Path) -> float:
    """Return the throughput of a run for MEASURED_S seconds, after the first LEFT_OUT_S seconds."""
    steps = [event for event in read_metrics(log) if isinstance(event, StepCompleted)]
    first = next(step for step in steps if step.elapsed_s >= LEFT_OUT_S)
    last = [step for step in steps if step.elapsed_s <= LEFT_OUT_S + MEASURED_S][-1]
    return (last.tokens - first.tokens) / (last.elapsed_s - first.elapsed_s)


def one_headless(preset: str) -> float:
    """Return tokens per second of a headless run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gpt_tui", "--train-only", "--preset", preset]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(LEFT_OUT_S + MEASURED_S + 5)
        process.terminate()
        process.wait()
        return tokens_per_s(Path(folder, "models", "metrics.jsonl"))


def one_in_app(preset: str) -> float:
    """Return tokens per second in the app."""
    with app("--preset", preset) as (terminal, log):
        terminal.read_for(LEFT_OUT_S + MEASURED_S + 5)
        return tokens_per_s(log)


def cost(preset: str, rounds: int) -> dict[str, float]:
    """Measure both in turn; return their medians and the cost of the app."""
    headless, in_app = [], []
    for number in range(rounds):
        headless.append(one_headless(preset))
        in_app.append(one_in_app(preset))
        print(f"round {number + 1}: headless {headless[-1]:,.0f}, app {in_app[-1]:,.0f} tokens/s", file=sys.stderr)
    medians = statistics.median(headless), statistics.median(in_app)
    return {
        "headless_tokens_per_s": round(medians[0]),
        "app_tokens_per_s": round(medians[1]),
        "app_costs_percent": round(100 * (1 - medians[1] / medians[0]), 2),
    }


# ---- training beside the Inside tab


class CpuTime(NamedTuple):
    """CPU seconds of the threads of a process, by their nice value: of training, of the Inside tab, and of others."""

    training: float
    inside: float
    others: float


def cpu_time(pid: int) -> CpuTime:
    """Return the CPU time of a process so far."""
    training, inside = (min(os.nice(0) + by, MAX_NICE) for by in (TRAINING, CHECKING))
    seconds = dict.fromkeys((training, inside), 0.0)
    others = 0.0
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            used, nice = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(fields[16])
            if nice in seconds:
                seconds[nice] += used
            else:
                others += used
    return CpuTime(seconds[training], seconds[inside], others)


CLOSED, EMPTY = "closed", "without a text"
INSIDE_KEYS = {
    CLOSED: ("\x1bOR",),  # the Chat tab, which is idle
    EMPTY: ("\x1b[17~", "e", "\x1b"),  # the line for a typed text, which stays empty
} | {view.name: ("\x1b[17~", "s", "\x1b[H", "\r", str(number)) for number, view in enumerate(VIEWS, 1)}


class Usage(NamedTuple):
    """CPU time with one view open.

    Attributes:
        computing_ms: Of the worker, per refresh.
        drawing_ms: Of other threads than those of the worker and of training, per refresh, beyond those at rest.
        rest_percent: Of those other threads without a refresh, in percent of all cores.
    """

    computing_ms: float
    drawing_ms: float
    rest_percent: float


def usage_of_view(terminal: Terminal, seconds: int, *, is_shown: bool) -> Usage:
    """Measure for some seconds without a refresh and, if a view is shown, for as many with one per second."""
    rest, rest_s = used(terminal, seconds)
    rest_percent = 100 * rest.others / (rest_s * len(os.sched_getaffinity(0)))
    if not is_shown:
        return Usage(0.0, 0.0, rest_percent)
    refreshed, refreshed_s = used(terminal, seconds, "r")
    drawing_s = refreshed.others - rest.others / rest_s * refreshed_s
    return Usage(1000 * refreshed.inside / seconds, 1000 * drawing_s / seconds, rest_percent)


def used(terminal: Terminal, seconds: int, key: str = "") -> tuple[CpuTime, float]:
    """Return the CPU time while a key is pressed once per second, and how long that took."""
    started_s, before = time.perf_counter(), cpu_time(terminal.process.pid)
    for _ in range(seconds):
        terminal.press(key)
        terminal.read_for(1.0)
    after = cpu_time(terminal.process.pid)
    return CpuTime(*(end - begin for begin, end in zip(before, after, strict=True))), time.perf_counter() - started_s


def last_step(log: Path) -> int:
    """Return the last step in a log."""
    return max((event.step for event in read_metrics(log) if isinstance(event, StepCompleted)), default=0)


def inside_cost(preset_name: str, rounds: int, seconds: int) -> dict[str, object]:
    """Measure with the Inside tab closed, open without a text, and with each view, in turn; return the medians.

    `costs_percent` is the cost of training with a refresh after each evaluation; `each_second_percent`, an upper bound,
    that with one per second.
    """
    if os.nice(0) + CHECKING > MAX_NICE:
        sys.exit("inside: got a lowered priority, at which threads cannot be told apart; run it without `nice`")
    found: dict[str, list[Usage]] = {}
    with app("--preset", preset_name) as (terminal, log):
        while not (first := last_step(log)):
            terminal.read_for(0.5)
        before = cpu_time(terminal.process.pid)
        for _ in range(rounds):
            for name, keys in INSIDE_KEYS.items():
                for key in keys:
                    terminal.press(key)
                    terminal.read_for(0.5)
                terminal.read_for(2.0)
                is_shown = name not in (CLOSED, EMPTY)
                found.setdefault(name, []).append(usage_of_view(terminal, seconds, is_shown=is_shown))
        while (last := last_step(log)) == first:
            terminal.read_for(0.5)
        step_ms = 1000 * (cpu_time(terminal.process.pid).training - before.training) / (last - first)
    medians = {name: Usage(*map(statistics.median, zip(*values, strict=True))) for name, values in found.items()}
    between_ms = (preset(preset_name).eval_every_steps or ASSUMED_STEPS) * step_ms
    second_ms = 1000 * len(os.sched_getaffinity(0))
    shown: dict[str, object] = {"step_ms": round(step_ms, 2), "between_evaluations_ms": round(between_ms)}
    for name, usage in medians.items():
        at_rest, refresh_ms = usage.rest_percent - medians[CLOSED].rest_percent, usage.computing_ms + usage.drawing_ms
        costs = {
            "costs_percent": at_rest + 100 * refresh_ms / between_ms,
            "each_second_percent": at_rest + 100 * refresh_ms / second_ms,
        }
        shown[name] = {key: round(value, 2) for key, value in {**usage._asdict(), **costs}.items()}
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["keys", "cost", "inside"])
    parser.add_argument("--preset", help="default: mini for keys, else nano")
    parser.add_argument("--rounds", type=int, help="default: 20 for keys, else 3")
    parser.add_argument("--seconds", type=int, default=20, help="per view and round, for inside")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.what == "cost":
        result: dict = cost(options.preset or "nano", options.rounds or 3)
    elif options.what == "inside":
        result = inside_cost(options.preset or "nano", options.rounds or 3, options.seconds)
    else:
        result = keys_report(key_to_paint(options.preset or "mini", options.rounds or 20))
    if options.json or options.what != "keys":
        print(json.dumps(result))
        return
    print(f"{'key':<26}{'presses':>8}{'p50 ms':>9}{'p99 ms':>9}")
    for name, row in result.items():
        print(f"{name:<26}{row['presses']:>8}{row['p50_ms']:>9}{row['p99_ms']:>9}")


if __name__ == "__main__":
    main()
