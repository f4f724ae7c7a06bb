"""Functions of the kernels as they are found in the package, so that tests notice a new one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from gpt_core import kernels

FOLDER = Path(kernels.__file__).parent


def kernel_functions(*, without: set[str]) -> set[tuple[ModuleType, str]]:
    """Return the public functions and classes of all compiled modules but some, each with its module."""
    modules = [
        import_module(f"gpt_core.kernels.{path.stem}") for path in FOLDER.glob("*.pyx") if path.stem not in without
    ]
    return {(module, name) for module in modules for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__}  # fmt: skip
