"""How much of the spread of scores each searched dimension explains, one at a time.

The corrected correlation ratio (epsilon squared, Kelley 1935): the share of the variance that lies
between groups of trials with alike values, less what as many groups would show by chance. Ranges
are cut into equal parts of the trials. It sees no interactions; what it gains over a fitted model
is that ten trials suffice and that nothing has to be installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["dimension_importance", "explained_share"]

NUM_PARTS = 3
LEAST_FREE = 3  # a few trials in as many groups "explain" everything


def dimension_importance(
    values: Sequence[Any], scores: Sequence[float], *, is_range: bool
) -> float | None:
    """0..1 for one dimension: the ``values`` that trials had there and their ``scores``.

    None where that cannot be told: fewer than two groups, or hardly more trials than groups.
    """
    groups = _parts(values) if is_range else [repr(value) for value in values]
    return explained_share(groups, scores)


def explained_share(groups: Sequence[object], scores: Sequence[float]) -> float | None:
    """Epsilon squared of a grouping, 0 where it is below; None as above."""
    names = sorted({str(group) for group in groups})
    split = [
        np.array([s for g, s in zip(groups, scores, strict=True) if str(g) == name], float)
        for name in names
    ]
    num_free = len(scores) - len(names)
    if len(names) < 2 or num_free < LEAST_FREE:
        return None
    total = float(((np.array(scores, float) - np.mean(scores)) ** 2).sum())
    if total == 0.0:
        return 0.0
    within = float(sum(((part - part.mean()) ** 2).sum() for part in split))
    by_chance = (len(names) - 1) * within / num_free
    return max(0.0, (total - within - by_chance) / total)


def _parts(values: Sequence[Any]) -> list[int]:
    """Numbers by the part of their ranks that they are in; equal ones share a part."""
    numbers = np.array(values, float)
    below = np.array([(numbers < number).sum() for number in numbers])
    parts: list[int] = (below * NUM_PARTS // max(1, len(numbers))).tolist()
    return parts
