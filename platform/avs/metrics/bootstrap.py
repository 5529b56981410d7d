"""Bootstrap intervals over groups of clips.

Clips of one picture or one source video are alike, so not clips but whole groups are drawn again:
an interval over clips would be too narrow. The method is the percentile one of scipy; its trade-off
is that with few groups (7 in some test splits) it is itself a rough figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["Interval", "grouped_interval"]

LEVEL = 0.95
NUM_RESAMPLES = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """mean: over all clips. low, high: the interval that holds it with ``LEVEL``."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is told from chance."""
        return self.low > 0.0 or self.high < 0.0


def grouped_interval(
    values: ArrayLike, groups: Sequence[str], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of ``values`` (one a clip) with its interval over ``groups`` (one name a clip).

    For two models on the same clips, give the differences: the interval is then paired.
    Raises ValueError for fewer than two groups, which say nothing about others.
    """
    sums_G, counts_G = _by_group(np.asarray(values, np.float64), groups)
    if len(counts_G) < 2:
        raise ValueError(f"{len(counts_G)} group of clips: an interval needs 2 or more")
    mean = float(sums_G.sum() / counts_G.sum())
    if np.allclose(sums_G, mean * counts_G, rtol=0.0, atol=1e-12):
        return Interval(mean=mean, low=mean, high=mean)
    interval = stats.bootstrap(
        (sums_G, counts_G),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=num_resamples,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean=mean, low=float(interval.low), high=float(interval.high))


def _by_group(
    values_N: NDArray[np.float64], groups: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the values of each group."""
    names, place_N = np.unique(np.asarray(groups), return_inverse=True)
    sums_G = np.bincount(place_N, weights=values_N, minlength=len(names))
    counts_G = np.bincount(place_N, minlength=len(names))
    return sums_G.astype(np.float64), counts_G.astype(np.float64)
