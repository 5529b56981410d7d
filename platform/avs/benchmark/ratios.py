"""Ratios of interleaved pairs with a confidence bound, and how figures grow over cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from scipy import stats

__all__ = ["Ratio", "growth", "pair_ratios"]

_CONFIDENCE = 0.90

Runs = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Median of the pairs' ratios; ``lower`` and ``upper`` bound their geometric mean.

    Each bound is one-sided, 90 %, from Student's t on the logarithms: it needs two pairs (else
    None) and means something from about seven.
    """

    median: float
    lower: float | None
    upper: float | None
    num_pairs: int

    def times(self, factor: float) -> Ratio:
        """The ratio multiplied by a positive number."""
        scaled = [None if v is None else factor * v for v in (self.lower, self.upper)]
        return Ratio(
            median=factor * self.median,
            lower=scaled[0],
            upper=scaled[1],
            num_pairs=self.num_pairs,
        )


def pair_ratios(runs: Runs, first: str, second: str) -> dict[str, Ratio]:
    """Per figure the ratio first : second of the pairs; empty if a contender did not run."""
    pairs = list(zip(runs.get(first, ()), runs.get(second, ()), strict=False))
    if not pairs:
        return {}
    return {
        key: _ratio([a[key] / b[key] for a, b in pairs])
        for key in pairs[0][0]
        if all(b[key] > 0 < a[key] for a, b in pairs)
    }


def growth(runs: Mapping[str, Runs], cases: Sequence[str], contender: str) -> dict[str, float]:
    """Median seconds of each case as a multiple of the first one's; cases that ran only."""
    seconds = {
        case: median(run["seconds"] for run in runs[case][contender])
        for case in cases
        if runs[case].get(contender)
    }
    base = seconds.get(cases[0])
    return {} if base is None else {case: value / base for case, value in seconds.items()}


def _ratio(values: Sequence[float]) -> Ratio:
    logs = [math.log(value) for value in values]
    lower = upper = None
    if len(logs) > 1:
        error = stdev(logs) / math.sqrt(len(logs))
        reach = float(stats.t.ppf(_CONFIDENCE, len(logs) - 1)) * error
        lower, upper = math.exp(fmean(logs) - reach), math.exp(fmean(logs) + reach)
    return Ratio(median=median(values), lower=lower, upper=upper, num_pairs=len(values))
