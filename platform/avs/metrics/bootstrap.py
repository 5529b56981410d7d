"""Bootstrap intervals over groups of clips, and over trainings.

Clips of one picture or one source video are alike, so not clips but whole groups are drawn again;
and a model trained once more is another one, so seeds are drawn again too. A percentile interval of
few draws is too narrow in two ways, which are mended as Hesterberg does (What Teachers Should Know
About the Bootstrap, 2015, sections 4.2 and 5.3): one less is drawn than there are, so that the
variance has no bias, and the percentiles are those of Student's t with that many degrees of
freedom. scipy's bootstrap draws along one axis only, hence the few lines here. Trade-off: with a
handful of groups or seeds it is still a rough figure.
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
    """mean: over all clips and seeds. low, high: the interval that holds it with ``LEVEL``."""

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
    """The mean of ``values`` with its interval over ``groups`` (one name a clip) and seeds.

    values: [clips], or [seeds, clips]. For two models on the same clips, give the differences: the
    interval is then paired. Raises ValueError for fewer than two groups, which say nothing about
    others.
    """
    values_SN = np.atleast_2d(np.asarray(values, np.float64))
    sums_SG, counts_G = _by_group(values_SN, groups)
    num_seeds, num_groups = sums_SG.shape
    if num_groups < 2:
        raise ValueError(f"{num_groups} group of clips: an interval needs 2 or more")
    mean = float(values_SN.mean())
    rng = np.random.default_rng(seed)
    drawn_RS = _draws(rng, num_seeds, num_resamples)
    drawn_RG = _draws(rng, num_groups, num_resamples)
    totals_R = np.einsum("rs,sg,rg->r", drawn_RS, sums_SG, drawn_RG)
    means_R = totals_R / (drawn_RS.sum(axis=1) * (drawn_RG @ counts_G))
    tail = float(stats.norm.cdf(stats.t.ppf((1.0 - LEVEL) / 2.0, df=num_groups - 1)))
    low, high = np.quantile(means_R, [tail, 1.0 - tail])
    return Interval(mean=mean, low=float(low), high=float(high))


def _draws(rng: np.random.Generator, count: int, num_resamples: int) -> NDArray[np.float64]:
    """How often each of ``count`` is drawn: [R, count], count - 1 draws a row (1 of a single)."""
    share = np.full(count, 1.0 / count)
    return rng.multinomial(max(count - 1, 1), share, size=num_resamples).astype(np.float64)


def _by_group(
    values_SN: NDArray[np.float64], groups: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of the values of each group [S, G] and the number of its clips [G]."""
    names, place_N = np.unique(np.asarray(groups), return_inverse=True)
    member_NG = np.eye(len(names))[place_N]
    return values_SN @ member_NG, member_NG.sum(axis=0)
