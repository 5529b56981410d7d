"""Which clips of several folders an epoch holds: each as often as its folder's weight says.

A weight of 2.5 is every clip twice and half of them once more; the halves change from epoch to
epoch. A pure function of (seed, epoch), as all of the plan is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["epoch_size", "held_rows"]


def epoch_size(sizes: Sequence[int], weights: Sequence[float] | None) -> int:
    """How many clips an epoch has. sizes: clips of each folder; weights: None = 1 each."""
    return sum(_counts(sizes, weights))


def held_rows(
    sizes: Sequence[int], weights: Sequence[float] | None, *, seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of an epoch and, of each, how often it was there before; folder by folder.

    Rows count through the folders, one after another.
    """
    rows, times_before, first = [], [], 0
    for place, (size, count) in enumerate(zip(sizes, _counts(sizes, weights), strict=True)):
        times, rest = divmod(count, size)
        chosen = np.random.default_rng([seed, epoch, place]).permutation(size)[:rest]
        rows.append(first + np.concatenate([np.tile(np.arange(size), times), np.sort(chosen)]))
        times_before.append(np.arange(count) // size)
        first += size
    return np.concatenate(rows), np.concatenate(times_before)


def _counts(sizes: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    if weights is None:
        return list(sizes)
    return [max(1, round(w * size)) for w, size in zip(weights, sizes, strict=True)]
