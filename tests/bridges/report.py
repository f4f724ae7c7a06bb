"""Run the tests of exports and imports and write the results: `python -m tests.bridges.report`.

The page is tests/bridges/RESULTS.md: each claim with its number of cases and its outcome, and the versions of the
programs that the files were exchanged with. Needs the extra `bridges`; what is not installed is reported as not run.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import textwrap
import time
import xml.etree.ElementTree as ElementTree
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.reliability.report import ROOT, Case, read_case

PAGE = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("transformers", "torch", "tokenizers", "llama-cpp-python", "gguf", "playwright")
HEAD = (
    "Written by `python -m tests.bridges.report` on {day}, with {versions} and Python {python}. A row is the claim of "
    "one test, its count the number of cases. {rows} claims: {held} held, {failed} failed, {not_run} not run."
)
LINE_CHARACTERS = 100


def main() -> int:
    """Run the tests, write the page, and return the exit code of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", f"--junitxml={results}"]
        command += ["-o", "junit_family=xunit1", "tests/bridges"]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        sections = read_sections(results)
    PAGE.write_text(page(sections), encoding="utf-8")
    print(f"written: {PAGE}")
    return code


def read_sections(path: Path) -> dict[str, list[Case]]:
    """Return the cases in pytest's JUnit report by module; a module that was skipped as a whole is one case."""
    groups: dict[tuple[str, str], list[ElementTree.Element]] = {}
    for found in ElementTree.parse(path).getroot().iter("testcase"):
        name = found.get("name", "").partition("[")[0]
        module = found.get("classname") or name
        groups.setdefault((module, name if found.get("classname") else "all tests"), []).append(found)
    sections: dict[str, list[Case]] = {}
    for (module, name), tests in groups.items():
        sections.setdefault(module, []).append(read_case(name, tests, "", 1.0))
    return sections


def page(sections: dict[str, list[Case]]) -> str:
    """Return the text of the page."""
    tables: list[str] = []
    for module, cases in sections.items():
        title = module.rpartition(".")[2].removeprefix("test_").replace("_", " ")
        tables += ["", f"## {title}", "", "| claim | count | outcome |", "| --- | --- | --- |"]
        words = [case.name.removeprefix("test_").replace("_", " ") for case in cases]
        tables += [f"| {text} | {case.tried} | {case.outcome} |" for text, case in zip(words, cases, strict=True)]
    shown = [case for cases in sections.values() for case in cases]
    failed = sum("FAILED" in case.outcome for case in shown)
    not_run = sum(case.outcome.startswith("not run") for case in shown)
    head = HEAD.format(
        day=time.strftime("%Y-%m-%d", time.gmtime()), versions=", ".join(map(with_version, PACKAGES)),
        python=platform.python_version(), rows=len(shown), held=len(shown) - failed - not_run, failed=failed,
        not_run=not_run,
    )  # fmt: skip
    return "\n".join(["# Exports and imports: results", "", textwrap.fill(head, LINE_CHARACTERS), *tables, ""])


def with_version(package: str) -> str:
    """Return the name of a package with its version."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


if __name__ == "__main__":
    sys.exit(main())
