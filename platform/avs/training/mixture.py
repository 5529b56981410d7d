"""Which clips of several folders an epoch holds: each as often as its folder's weight says.

A weight of 2.5 is every clip twice and half of them once more; the halves change from epoch to
epoch. A pure function of (seed, epoch), as all of the order is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avs.training.feed import epoch_order

__all__ = ["epoch_size", "mixed_order"]


def epoch_size(sizes: Sequence[int], weights: Sequence[float] | None) -> int:
    """How many clips an epoch has. sizes: clips of each folder; weights: None = 1 each."""
    return sum(_counts(sizes, weights))


def mixed_order(
    sizes: Sequence[int], weights: Sequence[float] | None, *, seed: int, epoch: int
) -> np.ndarray:
    """The rows of an epoch in their order; rows count through the folders, one after another.

    Where all weights are 1, the order is that of the folders without weights.
    """
    rows, first = [], 0
    for place, (size, count) in enumerate(zip(sizes, _counts(sizes, weights), strict=True)):
        times, rest = divmod(count, size)
        chosen = np.random.default_rng([seed, epoch, place]).permutation(size)[:rest]
        rows.append(first + np.concatenate([np.tile(np.arange(size), times), np.sort(chosen)]))
        first += size
    held = np.concatenate(rows).astype(np.int64)
    order: np.ndarray = held[epoch_order(len(held), seed=seed, epoch=epoch)]
    return order


def _counts(sizes: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    if weights is None:
        return list(sizes)
    return [max(1, round(w * size)) for w, size in zip(weights, sizes, strict=True)]
