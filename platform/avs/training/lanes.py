"""Lanes: the equal parts of every step, dealt to the workers that live.

A step of a run has as many lanes as the run was begun with workers, and what a lane sees and draws
is a function of (seed, epoch, step, lane). Fewer workers take several lanes each, one after the
other, so the global batch stays and each clip is still seen once an epoch. Trade-off: where the
lanes cannot be dealt evenly, who has fewer waits for the others; and the teacher of AVSC follows
once a lane that a worker takes.
"""

from __future__ import annotations

import numpy as np

__all__ = ["lanes_of", "part_seed"]


def lanes_of(rank: int, *, world_size: int, num_lanes: int) -> range:
    """The lanes of a worker, in the order that it takes them; rank 0 has the most."""
    return range(rank, num_lanes, world_size)


def part_seed(seed: int, *, lane: int, part: int) -> int:
    """The seed of stochastic layers in a forward pass. seed: of the step; part: of the lane."""
    return int(np.random.default_rng([seed, lane, part]).integers(2**31))
