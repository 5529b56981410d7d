"""What trial number k tries: a pure function of the space, the seed, k and the trials before it.

No sampler keeps a state. A sweep that was killed therefore goes on as it would have, from its trial
folders alone, and there is nothing to save beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from avs.errors import ConfigError
from avs.tuning.config import Sampler, SearchConfig
from avs.tuning.records import TrialRecord
from avs.tuning.space import Dimension, Space
from avs.tuning.tpe import propose_tpe

__all__ = ["grid_points", "num_grid_points", "propose", "random_values"]


def propose(
    space: Space, search: SearchConfig, *, seed: int, records: Sequence[TrialRecord]
) -> dict[str, Any] | None:
    """Values by key of the trial after ``records``, None where a grid is at its end.

    The first one is the configuration as it is (``search.try_default``): then the best trial is at
    least as good as that.
    """
    number = len(records)
    if search.sampler is Sampler.GRID:
        return next(islice(grid_points(space), number, None), None)
    if number == 0 and search.try_default:
        return space.default()
    if search.sampler is Sampler.TPE:
        return propose_tpe(space, search, seed=seed, records=records)
    return random_values(space, seed=seed, number=number)


def random_values(space: Space, *, seed: int, number: int) -> dict[str, Any]:
    """Values of random trial ``number`` (from 0), the same whatever came before."""
    rng = np.random.default_rng([seed, number])
    return space.walk(lambda dimension: dimension.at(float(rng.random())))


def grid_points(space: Space) -> Iterator[dict[str, Any]]:
    """All combinations, the last dimension changing first; those that are not active are left out.

    Raises:
        ConfigError: a dimension has no finite number of values.
    """
    for dimension in space.dimensions:
        if dimension.choice is None and not dimension.is_whole:
            raise ConfigError(
                f"space {dimension.key}: a grid cannot have all of {dimension.values()}: give "
                "choice or int, or search.sampler=random."
            )
    return _combinations(space, 0, {})


def num_grid_points(space: Space) -> int:
    """How many combinations a grid has."""
    return sum(1 for _ in grid_points(space))


def _combinations(space: Space, place: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if place == len(space.dimensions):
        yield values
        return
    dimension = space.dimensions[place]
    if not space.is_active(dimension, values):
        yield from _combinations(space, place + 1, values)
        return
    for value in _all_values(dimension):
        yield from _combinations(space, place + 1, {**values, dimension.key: value})


def _all_values(dimension: Dimension) -> list[Any]:
    if dimension.choice is not None:
        return dimension.choice
    low, high = dimension.values()
    return list(range(low, high + 1))
