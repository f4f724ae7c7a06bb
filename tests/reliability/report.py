"""Run the reliability tests with full counts and write the results: `python -m tests.reliability.report`.

The page is tests/reliability/RESULTS.md: each case with its number of trials, outcome and date. `--share 0.01` runs a
hundredth of the full counts. `--only EXPRESSION` runs the cases that pytest's -k selects and leaves the other rows
unchanged. Full counts take hours: they can be run in parts, even in parallel, each with its own `--page`, and combined
with `--merge`.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).with_name("RESULTS.md")
SECTIONS = {
    "Crash and disk": (
        "tests.reliability.test_kill_while_saving", "tests.reliability.test_kill_while_replacing",
        "tests.reliability.test_save_system_calls",
        "tests.reliability.test_disk_errors", "tests.reliability.test_long_runs", "tests.core.test_checkpoint_store",
        "tests.core.test_saving",
    ),
    "Exact resume": (
        "tests.reliability.test_exact_resume", "tests.core.test_resuming", "tests.core.test_other_eval_text",
        "tests.core.test_early_stopping", "tests.core.test_run_end", "tests.core.test_divergence",
        "tests.core.test_self_test", "tests.core.test_trainer", "tests.test_verify_resume",
    ),
    "Hostile input": (
        "tests.reliability.test_fuzz", "tests.reliability.test_hostile_resume",
        "tests.reliability.test_hostile_corpus", "tests.reliability.test_shown_harmlessly",
        "tests.core.test_checkpoint", "tests.core.test_settings", "tests.core.test_config_file",
        "tests.core.test_metrics_log",
    ),
    "Numbers": ("tests.reliability.test_numbers", "tests.core.test_sampler", "tests.core.test_reference"),
    "Several ranks": (
        "tests.core.test_gradient_sum", "tests.core.test_ranks", "tests.core.test_watch", "tests.core.test_relay",
        "tests.core.test_shared_runs", "tests.core.test_local_steps_requests", "tests.core.test_local_steps_resuming",
        "tests.distributed.test_mpi",
    ),
    "Signals, terminal, lock, reach": (
        "tests.reliability.test_signals", "tests.reliability.test_app", "tests.reliability.test_lock",
        "tests.reliability.test_reach", "tests.headless.test_models_folder", "tests.headless.test_notes",
        "tests.headless.test_output", "tests.headless.test_resume", "tests.headless.test_signals",
    ),
}  # fmt: skip
HEAD = """# Reliability results

Written by `python -m tests.reliability.report`, which runs each case with its full count;
`--share 0.05` runs a fraction of the count, `--only EXPRESSION` a subset of the cases. A case is
the claim of one test, its count the number of trials, and "run" the date and the fraction of the
full count. The machine of the last run: {system}, {cores} cores, Python {python}.

{cases} cases: {held} held, {failed} failed, {not_run} not run.
"""


class Case(NamedTuple):
    """One test with all of its parameters. `tried` is the count that it records, else the number of parameters."""

    name: str
    tried: str
    outcome: str
    run: str


def main() -> int:
    """Run the tests, write the page, and return the exit code of pytest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the full counts (default: 1)")
    parser.add_argument("--only", metavar="EXPRESSION", default="", help="run only these cases, as with pytest -k")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write (default: RESULTS.md here)")
    parser.add_argument("--merge", type=Path, nargs="+", help="run nothing: combine the results of these pages")
    options = parser.parse_args()
    if options.merge:
        others = (case for path in options.merge for case in read_page(path).values())
        write(options.page, {case.name: case for case in others if case.run})
        return 0
    modules = [module for group in SECTIONS.values() for module in group]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", f"--junitxml={results}"]
        command += ["-o", "junit_family=xunit1", "-k", options.only]
        code = subprocess.run(
            [*command, *map(source_of, modules)], cwd=ROOT, env=os.environ | {"GPT_TUI_FULL": str(options.share)},
            check=False,
        ).returncode  # fmt: skip
        new = read_cases(results, time.strftime("%Y-%m-%d", time.gmtime()), options.share)
    write(options.page, new)
    return code


def write(path: Path, new: dict[str, Case]) -> None:
    """Update the page with new results."""
    path.write_text(page(read_page(path) | new), encoding="utf-8")
    print(f"written: {path}")


def source_of(module: str) -> str:
    """Return the path of a module below ROOT."""
    return f"{module.replace('.', '/')}.py"


def read_cases(path: Path, day: str, share: float) -> dict[str, Case]:
    """Return the cases in pytest's JUnit report, one per test function, by name."""
    groups: dict[str, list[ElementTree.Element]] = {}
    for found in ElementTree.parse(path).getroot().iter("testcase"):
        groups.setdefault(found.get("name", "").partition("[")[0], []).append(found)
    return {name: read_case(name, found, day, share) for name, found in groups.items()}


def read_case(name: str, found: list[ElementTree.Element], day: str, share: float) -> Case:
    """Combine the results of a test's parameters into one case. A case without a count does not depend on `share`."""
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
    run = f"{day}, {share:g} of full" if counts and share != 1 else f"{day}, full"
    return Case(name, ", ".join(counts) or str(len(found)), "; ".join([outcome, *seen]).replace("|", "/"), run)


def read_page(path: Path) -> dict[str, Case]:
    """Return the cases on a page by name; none if the page does not exist."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = re.findall(r"^\| (.+?) \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    cases = (Case("test_" + words.replace(" ", "_"), *rest) for words, *rest in rows)
    return {case.name: case for case in cases}


def page(known: dict[str, Case]) -> str:
    """Return the text of RESULTS.md: the latest result of each existing test, in the order of the files."""
    tables: list[str] = []
    shown: list[Case] = []
    for title, modules in SECTIONS.items():
        tables += ["", f"## {title}", "", "| case | count | outcome | run |", "| --- | --- | --- | --- |"]
        for name in names_of_tests(modules):
            case = known.get(name, Case(name, "0", "not run", ""))
            words = name.removeprefix("test_").replace("_", " ")
            tables.append(f"| {words} | {case.tried} | {case.outcome} | {case.run} |")
            shown.append(case)
    failed = sum("FAILED" in case.outcome for case in shown)
    not_run = sum(case.outcome.startswith("not run") for case in shown)
    head = HEAD.format(
        system=f"{platform.system()} {platform.machine()}", cores=os.cpu_count(), python=platform.python_version(),
        cases=len(shown), held=len(shown) - failed - not_run, failed=failed, not_run=not_run,
    )  # fmt: skip
    return head + "\n".join(tables) + "\n"


def names_of_tests(modules: Iterable[str]) -> list[str]:
    """Return the names of the test functions in these modules, in order."""
    sources = (Path(ROOT, source_of(module)).read_text(encoding="utf-8") for module in modules)
    return [name for source in sources for name in re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE)]


if __name__ == "__main__":
    sys.exit(main())
