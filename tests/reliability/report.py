"""Runs what must survive with full counts, and writes what came of it: `python -m tests.reliability.report`.

The page is tests/reliability/RESULTS.md: each case, how often it was tried, and the outcome. `--share 0.01` tries a
hundredth of the full counts; whatever share was run is what the page says.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("RESULTS.md")
SECTIONS = {
    "Crash and disk": (
        "tests.reliability.test_kill_while_saving", "tests.reliability.test_save_system_calls",
        "tests.reliability.test_disk_errors", "tests.reliability.test_long_runs", "tests.core.test_checkpoint_store",
    ),
    "Exact resume": ("tests.reliability.test_exact_resume", "tests.core.test_trainer", "tests.test_resume_check"),
    "Hostile input": (
        "tests.reliability.test_hostile_resume", "tests.reliability.test_hostile_corpus",
        "tests.reliability.test_shown_harmlessly", "tests.core.test_checkpoint", "tests.core.test_settings",
        "tests.core.test_metrics_log",
    ),
    "Numbers": ("tests.reliability.test_numbers", "tests.core.test_sampler"),
    "Signals, terminal, lock, reach": (
        "tests.reliability.test_signals", "tests.reliability.test_lock", "tests.reliability.test_reach",
        "tests.test_headless",
    ),
}  # fmt: skip


class Case(NamedTuple):
    """One test, with all of its parameters. `tried` is what it says it tried, else the number of its parameters."""

    module: str
    name: str
    tried: str
    outcome: str


def main() -> int:
    """Run, write the page, and give pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts (default: 1)")
    share = parser.parse_args().share
    modules = [module for group in SECTIONS.values() for module in group]
    files = [f"{module.replace('.', '/')}.py" for module in modules]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        options = ["-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={results}"]
        command = [sys.executable, "-m", "pytest", *options, *files]
        code = subprocess.run(command, cwd=ROOT, env=os.environ | {"GPT_TUI_FULL": str(share)}, check=False).returncode
        cases = read_cases(results)
    RESULTS.write_text(page(cases, share, time.monotonic() - started), encoding="utf-8")
    print(f"written: {RESULTS}")
    return code


def read_cases(path: Path) -> list[Case]:
    """The cases in pytest's own report, one for each test function."""
    groups: dict[tuple[str, str], list[ElementTree.Element]] = {}
    for found in ElementTree.parse(path).getroot().iter("testcase"):
        groups.setdefault((found.get("classname", ""), found.get("name", "").partition("[")[0]), []).append(found)
    return [read_case(*key, found) for key, found in groups.items()]


def read_case(module: str, name: str, found: list[ElementTree.Element]) -> Case:
    """One case, from what its parameters came to."""
    properties = [{p.get("name"): p.get("value") or "" for p in test.iter("property")} for test in found]
    counts = list(dict.fromkeys(held["count"] for held in properties if "count" in held))
    seen = [held["seen"] for held in properties if "seen" in held]
    failed = sum(test.find("failure") is not None or test.find("error") is not None for test in found)
    skipped = [skip.get("message") or "" for test in found if (skip := test.find("skipped")) is not None]
    outcome = "held" if not failed else f"**FAILED** ({failed} of {len(found)})"
    if len(skipped) == len(found):
        outcome = f"not run: {skipped[0]}"
    elif skipped:
        outcome += f", {len(skipped)} not run: {skipped[0]}"
    return Case(module, name, ", ".join(counts) or str(len(found)), "; ".join([outcome, *seen]))


def page(cases: list[Case], share: float, took_s: float) -> str:
    """RESULTS.md."""
    failed = sum("FAILED" in case.outcome for case in cases)
    not_run = sum(case.outcome.startswith("not run") for case in cases)
    lines = [
        "# What must survive: results",
        "",
        f"Written by `python -m tests.reliability.report --share {share:g}` ({share:g} of the full counts) in "
        f"{took_s / 60:.1f} minutes, on {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        f"{len(cases)} cases: {len(cases) - failed - not_run} held, {failed} failed, {not_run} not run. A case is the "
        "claim of one test; its count is how often it was tried.",
    ]
    for title, modules in SECTIONS.items():
        lines += ["", f"## {title}", "", "| case | count | outcome |", "| --- | --- | --- |"]
        for module in modules:
            for case in cases:
                if case.module == module:
                    words = case.name.removeprefix("test_").replace("_", " ")
                    lines.append(f"| {words} | {case.tried} | {case.outcome.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
