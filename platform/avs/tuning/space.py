"""The search space: dotted keys of the training configuration and what each may be."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from avs.errors import ConfigError

__all__ = ["Dimension", "apply"]


@dataclass(kw_only=True, slots=True)
class Dimension:
    """One searched key: exactly one of ``choice``, ``uniform``, ``loguniform`` ([low, high])."""

    key: str
    choice: list[Any] | None = None
    uniform: list[float] | None = None
    loguniform: list[float] | None = None

    def __post_init__(self) -> None:
        given = [k for k in ("choice", "uniform", "loguniform") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"space {self.key}: give exactly one of choice, uniform, loguniform (got "
                f"{', '.join(given) or 'none'})."
            )
        if self.choice is not None and not self.choice:
            raise ConfigError(f"space {self.key}: choice is empty.")
        bounds = self.loguniform if self.uniform is None else self.uniform
        if bounds is not None:
            ordered = len(bounds) == 2 and bounds[0] < bounds[1]
            if not ordered or (self.loguniform and bounds[0] <= 0):
                raise ConfigError(f"space {self.key}: {given[0]}={bounds} must be [low, high].")

    def values(self) -> list[Any]:
        """The choices, or both ends of the range."""
        return self.choice or self.uniform or self.loguniform or []


def apply(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a plain configuration with ``values`` (dotted key -> value) set in it.

    Raises:
        ConfigError: a key is not there; names the part that is unknown and what is known.
    """
    changed = copy.deepcopy(config)
    for key, value in values.items():
        *parents, last = key.split(".")
        node = changed
        for part in parents:
            if not isinstance(node.get(part), dict):
                raise ConfigError(f"space {key}: {part} is not a group of the configuration.")
            node = node[part]
        if last not in node and "options" not in parents:
            raise ConfigError(f"space {key}: {last} is not known. Known: {', '.join(node)}.")
        node[last] = value
    return changed
