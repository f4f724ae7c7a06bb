"""Startup time: the help text, the first paint of the app, and the first event of a run.

    python benchmarks/start.py [--rounds N] [--json]

help: `gpt-tui --help` until it exits. paint: the app in a pseudo terminal until the tabs of its first screen are drawn.
weights: a headless run of `mini` on the shipped text with a warm token cache, until its first event, just before its
first step. Processor time is printed too where the system reports it; it varies less on a machine with other load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from app import Terminal

PROGRAM = [sys.executable, "-m", "gpt_tui"]
FIRST_WORDS = "Chat"  # the name of a tab
TIMEOUT_S = 120.0


class Taken(NamedTuple):
    """Seconds from the start of a process to an event, and the CPU time used by then."""

    elapsed_s: float
    processor_s: float | None


def help_shown(folder: Path) -> Taken:
    """Measure `gpt-tui --help`."""
    started, before = time.perf_counter(), os.times()
    subprocess.run([*PROGRAM, "--help"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Taken(time.perf_counter() - started, used)


def first_paint(folder: Path) -> Taken:
    """Measure the app until its first screen is drawn."""
    started = time.perf_counter()
    terminal = Terminal([*PROGRAM, "--models-dir", str(folder / "models")], folder)
    try:
        terminal.until(FIRST_WORDS, TIMEOUT_S)
        return Taken(time.perf_counter() - started, processor_seconds(terminal.process.pid))
    finally:
        terminal.process.kill()
        terminal.process.wait()


def weights_ready(folder: Path) -> Taken:
    """Measure a headless run of `mini` until its first event."""
    command = [*PROGRAM, "--train-only", "--json", "--preset", "mini", "--models-dir", str(folder / "models")]
    started = time.perf_counter()
    with subprocess.Popen([*command, "--overwrite"], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if json.loads(line).get("event") == "started":
                    return Taken(time.perf_counter() - started, processor_seconds(process.pid))
        finally:
            process.kill()
    raise SystemExit("the run ended before it began")


def processor_seconds(pid: int) -> float | None:
    """Return the CPU time of a running process; None where the system does not report it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


MEASURED: dict[str, Callable[[Path], Taken]] = {"help": help_shown, "paint": first_paint, "weights": weights_ready}


def main() -> None:
    """Measure in turn and print medians, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    taken: dict[str, list[Taken]] = {name: [] for name in MEASURED}
    with tempfile.TemporaryDirectory(prefix="gpt-tui-start-") as folder:
        weights_ready(Path(folder))  # fills the token cache
        for _ in range(options.rounds):
            for name, measure in MEASURED.items():
                taken[name].append(measure(Path(folder)))
    result = {}
    for name, rounds in taken.items():
        used = [one.processor_s for one in rounds if one.processor_s is not None]
        result[name] = {
            "elapsed_s": statistics.median(one.elapsed_s for one in rounds),
            "processor_s": statistics.median(used) if used else None,
        }
    if options.json:
        print(json.dumps(result))
        return
    for name, figures in result.items():
        processor = "" if figures["processor_s"] is None else f", {figures['processor_s']:.2f} s of processor time"
        print(f"{name:8} {figures['elapsed_s']:6.2f} s{processor}")


if __name__ == "__main__":
    main()
