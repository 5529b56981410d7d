"""The plan of an epoch: which clips each lane takes in each step, before anything is read.

A pure function of (seed, epoch, sizes of the shards, weights of the folders, cut), so a run that
goes on sees the clips of one that was not stopped, whoever is slow. A *lane* is one of the workers
that were configured, not of those that live: with fewer of them a worker takes several lanes, and
every clip is still seen once.

Shards are permuted and their rows shuffled, the line of all of them is dealt to *bands* of the
global batch in equal parts (a shard is cut where a part ends), and the rows of a band are shuffled
within a window of shards. Trade-off: a window bounds the files that are open at a time, so that a
worker need not know all of a large data set; one that fits into a window (4,096 clips in shards of
32) is shuffled whole. Bands depend on the size of the global batch alone, so its clips are the same
however it is cut into lanes and micro-batches. A row is a row group, so any order inside a shard
costs the same.

Shapes: N rows of an epoch, S steps, G clips of a global batch, L lanes, A micro-batches of a lane
in a step, B clips of a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avs.training.mixture import held_rows

__all__ = ["Cut", "EpochPlan", "even_share", "plan_epoch", "steps_per_epoch"]

Rows = NDArray[np.int64]

_OPEN_SHARDS = 128  # of all bands together, where a single worker reads them
_LEAST_OPEN_SHARDS = 16  # of a band: fewer would leave neighbours in a shard neighbours in time
_LEAST_BAND = 4  # clips of a step from one band: with one, clips of a shard would never meet


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How a global batch is cut: L lanes, each A micro-batches of B clips in a step."""

    num_lanes: int
    batch_size: int
    accumulate_steps: int = 1

    @property
    def global_batch(self) -> int:
        """Clips of a step on all lanes."""
        return self.num_lanes * self.batch_size * self.accumulate_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochPlan:
    """``rows`` [S, L, A, B]: numbers through the folders' shards, one after another, from 0."""

    rows: Rows

    @property
    def num_steps(self) -> int:
        """Steps of the epoch, equal on every lane."""
        return len(self.rows)

    def micro_batches(self, lanes: Sequence[int], *, first_step: int = 0) -> Iterator[list[int]]:
        """The rows of each micro-batch of ``lanes``, step by step; in a step lane by lane."""
        for step_LAB in self.rows[first_step:]:
            for lane in lanes:
                yield from step_LAB[lane].tolist()


def steps_per_epoch(num_clips: int, *, global_batch: int) -> int:
    """Optimiser steps of one epoch, equal on every lane.

    A rest smaller than the global batch waits for another epoch, which has another rest; fewer
    clips than one global batch make one step with repeats.
    """
    return max(1, num_clips // global_batch)


def plan_epoch(
    shard_sizes: Sequence[Sequence[int]],
    *,
    weights: Sequence[float] | None,
    seed: int,
    epoch: int,
    cut: Cut,
) -> EpochPlan:
    """The plan of an epoch (from 1).

    shard_sizes: rows of each shard, of each folder. weights: how often a clip of each folder is
    seen, on average; None: once.
    """
    rng = np.random.default_rng([seed, epoch])
    rows_N, shards_N = _held(shard_sizes, weights, seed=seed, epoch=epoch)
    num_steps = steps_per_epoch(len(rows_N), global_batch=cut.global_batch)
    # Which rows wait is drawn from all: the end of the line would be small shards more often.
    kept = np.sort(rng.permutation(len(rows_N))[: num_steps * cut.global_batch])
    rows_N, shards_N = rows_N[kept], shards_N[kept]
    num_shards = int(shards_N.max()) + 1
    line_N = rows_N[_shuffled(rng.permutation(num_shards)[shards_N], rng)]
    line_N = np.resize(line_N, num_steps * cut.global_batch)
    num_bands = _num_bands(cut.global_batch, num_shards)
    line_N = line_N[_shuffled(_windows(len(line_N), num_bands, num_shards), rng)]
    rows_SG = line_N.reshape(num_bands, num_steps, -1).swapaxes(0, 1)
    shape = (num_steps, cut.num_lanes, cut.accumulate_steps, cut.batch_size)
    return EpochPlan(rows=rows_SG.reshape(shape))


def even_share(num_clips: int, *, rank: int, world_size: int) -> range:
    """The rows that ``rank`` validates: neighbours, each on one rank, sizes differ by at most 1."""
    first, end = (num_clips * place // world_size for place in (rank, rank + 1))
    return range(first, end)


def _held(
    shard_sizes: Sequence[Sequence[int]], weights: Sequence[float] | None, *, seed: int, epoch: int
) -> tuple[Rows, Rows]:
    """The rows of an epoch and the shard of each; a shard that is seen again is one more shard."""
    sizes = [size for own in shard_sizes for size in own]
    folder_sizes = [sum(own) for own in shard_sizes]
    rows_N, times_N = held_rows(folder_sizes, weights, seed=seed, epoch=epoch)
    shards_N = np.repeat(np.arange(len(sizes)), sizes)[rows_N] + times_N * len(sizes)
    return rows_N, np.unique(shards_N, return_inverse=True)[1]


def _shuffled(groups_N: Rows, rng: np.random.Generator) -> Rows:
    """The order that sorts groups and is random inside each."""
    return np.lexsort((rng.random(len(groups_N)), groups_N))


def _num_bands(global_batch: int, num_shards: int) -> int:
    """The most bands of equal width that leave each enough clips of a step and enough shards."""
    if num_shards <= _OPEN_SHARDS:
        return 1
    most = max(1, min(global_batch // _LEAST_BAND, num_shards // _LEAST_OPEN_SHARDS))
    return max(count for count in range(1, most + 1) if global_batch % count == 0)


def _windows(num_rows: int, num_bands: int, num_shards: int) -> Rows:
    """The window of each place of the line: equal parts of a band, none over its end."""
    open_shards = max(_LEAST_OPEN_SHARDS, _OPEN_SHARDS // num_bands)
    count = num_bands * math.ceil(num_shards / num_bands / open_shards)
    return np.arange(num_rows) * count // num_rows
