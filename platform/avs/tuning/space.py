"""The search space: dotted keys of the training configuration and what each may be.

A dimension may depend on others (``when``): it is part of a trial only where they hold, so a
temperature is not searched for a loss that is off. A space is walked in its order, therefore a
condition looks back, never ahead. Trade-off: samplers see one number in [0, 1) for each dimension
and :meth:`Dimension.at` turns it into a value, so that a new kind of range is one line here.
"""

from __future__ import annotations

import builtins
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from avs.errors import ConfigError

__all__ = ["Dimension", "Space", "apply"]

_KINDS = ("choice", "int", "logint", "uniform", "loguniform")


@dataclass(kw_only=True, slots=True)
class Dimension:
    """One searched key: exactly one of ``choice`` (a list), ``int``, ``logint`` ([low, high], whole
    numbers, both ends included), ``uniform``, ``loguniform`` ([low, high]).

    ``when``: {key: value or [values]}, all of which must hold; a value that is itself a list goes
    into one more pair of brackets.
    """

    key: str
    choice: list[Any] | None = None
    int: list[builtins.int] | None = None
    logint: list[builtins.int] | None = None
    uniform: list[float] | None = None
    loguniform: list[float] | None = None
    when: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"space {self.key}: give exactly one of {', '.join(_KINDS)} (got "
                f"{', '.join(given) or 'none'})."
            )
        values = getattr(self, given[0])
        if self.choice is not None:
            if not self.choice:
                raise ConfigError(f"space {self.key}: choice is empty.")
        else:
            ordered = len(values) == 2 and values[0] < values[1]
            if not ordered or (self.is_log and values[0] <= 0):
                raise ConfigError(f"space {self.key}: {given[0]}={values} must be [low, high].")
        empty = [key for key, wanted in self.when.items() if wanted == []]
        if empty:
            raise ConfigError(f"space {self.key}: when.{empty[0]}=[] never holds.")

    @property
    def is_log(self) -> bool:
        """Whether factors count, not differences."""
        return self.logint is not None or self.loguniform is not None

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return self.int is not None or self.logint is not None

    def values(self) -> list[Any]:
        """The choices, or both ends of the range."""
        return next(v for kind in _KINDS if (v := getattr(self, kind)) is not None)

    def wanted(self, key: str) -> list[Any]:
        """The values of ``key`` for which it is searched."""
        allowed = self.when[key]
        return list(allowed) if isinstance(allowed, list) else [allowed]

    def at(self, place: float) -> Any:
        """The value at ``place`` in [0, 1), every value or equal part of the range alike."""
        if self.choice is not None:
            return self.choice[math.floor(place * len(self.choice))]
        low, high = self._ends()
        if self.is_log:
            found = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
        else:
            found = low + place * (high - low)
        first, last = self.values()
        found = round(found) if self.is_whole else found
        return min(max(found, first), last)

    def place(self, value: Any) -> float:
        """Where in [0, 1] ``value`` lies, for pictures; the middle of its part for a choice."""
        if self.choice is not None:
            return (self.choice.index(value) + 0.5) / len(self.choice)
        low, high = self._ends()
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return float((value - low) / (high - low))

    def contains(self, value: Any) -> bool:
        """Whether ``value`` may come out of it."""
        if self.choice is not None:
            return value in self.choice
        number = isinstance(value, (builtins.int, float)) and not isinstance(value, bool)
        first, last = self.values()
        whole = not self.is_whole or isinstance(value, builtins.int)
        return number and whole and bool(first <= value <= last)

    def _ends(self) -> tuple[float, float]:
        """The range; of whole numbers, so wide that the outermost ones get their share."""
        low, high = self.values()
        return (low - 0.5, high + 0.5) if self.is_whole else (low, high)


@dataclass(frozen=True, slots=True)
class Space:
    """Dimensions in order over ``base``, the plain configuration that trials change.

    A condition on a key that is not searched decides whether this sweep has the dimension at all.

    Raises:
        ConfigError: a key twice, a condition on a later or unknown key, or on a value that an
            earlier dimension never has.
    """

    dimensions: Sequence[Dimension]
    base: Mapping[str, Any]

    def __post_init__(self) -> None:
        keys = [dimension.key for dimension in self.dimensions]
        again = sorted({key for key in keys if keys.count(key) > 1})
        if again:
            raise ConfigError(f"space {again[0]}: searched twice: give its values in one place.")
        for place, dimension in enumerate(self.dimensions):
            for key in dimension.when:
                self._check_condition(dimension, key, earlier=keys[:place])

    def is_active(self, dimension: Dimension, values: Mapping[str, Any]) -> bool:
        """Whether it is searched beside the ``values`` of earlier dimensions."""
        return all(self._holds(dimension, key, values) for key in dimension.when)

    def walk(self, choose: Callable[[Dimension], Any]) -> dict[str, Any]:
        """Values by key: what ``choose`` says of each dimension that is active by then."""
        values: dict[str, Any] = {}
        for dimension in self.dimensions:
            if self.is_active(dimension, values):
                values[dimension.key] = choose(dimension)
        return values

    def default(self) -> dict[str, Any]:
        """What the base itself has, where that is given and within the space."""
        values: dict[str, Any] = {}
        for dimension in self.dimensions:
            found = _lookup(self.base, dimension.key)
            if self.is_active(dimension, values) and dimension.contains(found):
                values[dimension.key] = found
        return values

    def witness(self, dimension: Dimension) -> dict[str, Any]:
        """Values of other dimensions beside which it is active."""
        values: dict[str, Any] = {}
        for key in dimension.when:
            for other in self.dimensions:
                if other.key == key:
                    values |= {**self.witness(other), key: dimension.wanted(key)[0]}
        return values

    def _holds(self, dimension: Dimension, key: str, values: Mapping[str, Any]) -> bool:
        if self._searched(key):  # one that is not active itself holds for nobody
            return key in values and values[key] in dimension.wanted(key)
        return _lookup(self.base, key) in dimension.wanted(key)

    def _searched(self, key: str) -> bool:
        return any(dimension.key == key for dimension in self.dimensions)

    def _check_condition(self, dimension: Dimension, key: str, *, earlier: list[str]) -> None:
        told = f"space {dimension.key}: when.{key}={dimension.when[key]}"
        if self._searched(key):
            if key not in earlier:
                raise ConfigError(f"{told}: that key is searched later: put it before this one.")
            other = self.dimensions[earlier.index(key)]
            odd = [value for value in dimension.wanted(key) if not other.contains(value)]
            if odd:
                raise ConfigError(f"{told}: {odd[0]} is none of {other.values()}, its values.")
        elif _lookup(self.base, key) is None:
            raise ConfigError(f"{told}: that key has no value: set it, or search it before.")


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
        node[last] = copy.deepcopy(value)
    return changed


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node
