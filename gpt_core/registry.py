"""Registries: implementations that a setting selects by name.

A registry imports an implementation when it is first used, so that the settings can list the names without importing
NumPy or a compiled module.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, Generic, TypeVar, cast

from gpt_core.errors import ConfigError, InputError

Implementation = TypeVar("Implementation")


class Registry(Generic[Implementation]):
    """Mapping of names to implementations.

    Args:
        setting: Name of the setting whose values the registered names are.
        error: Class of the error for a name that is not registered.
    """

    def __init__(self, setting: str, error: type[InputError] = ConfigError) -> None:
        self.setting = setting
        self._error = error
        self._implementations: dict[str, Implementation | str] = {}

    def register(self, name: str, implementation: Implementation | str) -> None:
        """Register an implementation, or "module:attribute" to import it when it is first used.

        An implementation registered under the same name before is replaced.
        """
        self._implementations[name] = implementation

    def unregister(self, name: str) -> None:
        """Remove a name.

        Raises:
            KeyError: The name is not registered.
        """
        del self._implementations[name]

    def names(self) -> tuple[str, ...]:
        """Return the registered names, in the order of registration."""
        return tuple(self._implementations)

    def get(self, name: str) -> Implementation:
        """Return the implementation registered under `name`.

        Raises:
            InputError: Nothing is registered under this name; its class is that of the registry.
        """
        found = self._implementations.get(name)
        if found is None:
            near = difflib.get_close_matches(name[:80], self._implementations, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(self._implementations)}"
            raise self._error(f"{self.setting}: got {name[:80]!r}, which is not registered: {hint}")
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = cast(Implementation, getattr(importlib.import_module(module), attribute))
            self._implementations[name] = found
        return found


OPTIMIZERS: Registry[Any] = Registry("optimizer")
"""Subclasses of `gpt_core.optim.Optimizer`."""
OPTIMIZERS.register("adamw", "gpt_core.optim.adamw:AdamW")
OPTIMIZERS.register("muon", "gpt_core.optim.muon:Muon")
