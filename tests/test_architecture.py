"""The import graph of gpt_tui. `python -m tests.test_architecture` prints it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "gpt_tui"

Graph = dict[str, set[str]]  # maps a name to the names that it imports


@cache
def module_graph() -> Graph:
    """Return the imports between the modules of gpt_tui, including those in functions and for type checking."""
    files = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
             for path in PACKAGE.rglob("*.py")}  # fmt: skip
    return {module: imported_names(path) & (files.keys() - {module}) for module, path in files.items()}


def imported_names(path: Path) -> set[str]:
    """Return the names that a file imports: modules, and what is imported from them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def grouped(group: Callable[[str], str]) -> Graph:
    """Return the imports between groups of modules, where `group` names the group of a module."""
    graph: Graph = {}
    for module, imports in module_graph().items():
        graph.setdefault(group(module), set()).update(map(group, imports))
    return {name: imports - {name} for name, imports in graph.items()}


def entry(module: str) -> str:
    """Return the top-level entry of gpt_tui that contains a module: a folder or a module; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def folder(module: str) -> str:
    """Return the folder that contains a module, relative to gpt_tui: `tabs/chat`."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    return (path if path.is_dir() else path.parent).relative_to(PACKAGE).as_posix()


def levels(graph: Graph) -> dict[str, int]:
    """Return the level of each name: 1 if it imports nothing, else 1 + the highest level of its imports."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[other] for other in graph[name]), default=0)
    return found


def test_gpt_tui_has_at_most_12_top_level_entries() -> None:
    assert len(grouped(entry).keys() - {""}) <= 12


@pytest.mark.parametrize("group", [entry, folder])
def test_imports_between_folders_form_no_cycle_and_at_most_8_levels(group: Callable[[str], str]) -> None:
    assert max(levels(grouped(group)).values()) <= 8


def test_run_state_imports_nothing_from_charts() -> None:
    assert "charts" not in map(entry, module_graph()["gpt_tui.session.run_state"])


if __name__ == "__main__":
    for name, imports in sorted(grouped(entry).items()):
        print(f"{name:12} {', '.join(sorted(imports))}")
    print("levels:", levels(grouped(entry)))
