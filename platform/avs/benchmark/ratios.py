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
    """Median of the pairs' ratios; ``lower`` bounds their geometric mean from below.

    ``lower`` is one-sided, 90 %, from Student's t on the logarithms: it needs two pairs (else None)
    and means something from about seven.
    """

    median: float
    lower: float | None
    num_pairs: int


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
    lower = None
    if len(logs) > 1:
        error = stdev(logs) / math.sqrt(len(logs))
        lower = math.exp(fmean(logs) - float(stats.t.ppf(_CONFIDENCE, len(logs) - 1)) * error)
    return Ratio(median=median(values), lower=lower, num_pairs=len(values))
