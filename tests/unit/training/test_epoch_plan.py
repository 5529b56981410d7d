"""The plan of an epoch: each clip once, equal steps everywhere, and well mixed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from avs.training.plan import Cut, EpochPlan, even_share, plan_epoch, steps_per_epoch

# shards of each folder, lanes, clips of a micro-batch, micro-batches a step
SETUPS = [
    ([[31]], 3, 2, 1),
    ([[7, 7, 7, 7, 3]], 3, 1, 2),
    ([[1] * 10, [21]], 3, 2, 1),
    ([[8]], 1, 2, 1),
    ([[5, 7]], 7, 1, 1),
    ([[32] * 300, [32] * 99 + [5]], 4, 2, 2),
]


def plan(
    sizes: list[list[int]], *, cut: Cut, epoch: int = 1, seed: int = 0, weights: Any = None
) -> EpochPlan:
    return plan_epoch(sizes, weights=weights, seed=seed, epoch=epoch, cut=cut)


def steps(planned: EpochPlan) -> NDArray[np.int64]:
    """The rows of each global batch."""
    return planned.rows.reshape(planned.num_steps, -1)


def test_the_plan_follows_from_seed_and_epoch() -> None:
    cut = Cut(num_lanes=2, batch_size=2)
    plans = [plan([[31]], cut=cut, seed=s, epoch=e).rows for s in (0, 1) for e in (1, 2)]
    assert len({rows.tobytes() for rows in plans}) == 4
    assert np.array_equal(plan([[31]], cut=cut, seed=1, epoch=2).rows, plans[3])


@pytest.mark.parametrize(("sizes", "lanes", "batch", "count"), SETUPS)
def test_each_clip_is_in_one_step_of_one_lane_and_all_lanes_have_as_many(
    sizes: list[list[int]], lanes: int, batch: int, count: int
) -> None:
    cut = Cut(num_lanes=lanes, batch_size=batch, accumulate_steps=count)
    num_clips = sum(map(sum, sizes))
    planned = plan(sizes, cut=cut)
    assert planned.num_steps == steps_per_epoch(num_clips, global_batch=lanes * batch * count)
    own = [list(planned.micro_batches([lane])) for lane in range(lanes)]
    assert {len(batches) for batches in own} == {planned.num_steps * count}
    assert all(len(rows) == batch for batches in own for rows in batches)
    flat = [row for batches in own for rows in batches for row in rows]
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(range(num_clips))
    assert num_clips - len(flat) < lanes * batch * count


def test_the_rest_of_an_epoch_is_another_one_in_the_next_and_no_clip_waits_more_often() -> None:
    cut, sizes = Cut(num_lanes=3, batch_size=3), [[12, 12, 2]]  # 26 clips: 8 wait
    waiting = [
        set(range(26)) - set(steps(plan(sizes, cut=cut, epoch=epoch)).ravel().tolist())
        for epoch in range(1, 401)
    ]
    assert {len(rest) for rest in waiting} == {8}
    assert len({frozenset(rest) for rest in waiting}) > 390
    share = np.bincount([row for rest in waiting for row in rest], minlength=26) / 400
    # 4 standard deviations: the two clips of the small shard wait as often as the others
    assert share == pytest.approx([8 / 26] * 26, abs=4 * np.sqrt(8 / 26 * 18 / 26 / 400))


@pytest.mark.parametrize("sizes", [[[31]], [[32] * 300]])
def test_a_global_batch_is_the_same_however_it_is_cut(sizes: list[list[int]]) -> None:
    whole = steps(plan(sizes, cut=Cut(num_lanes=1, batch_size=12)))
    for lanes, batch, count in ((3, 4, 1), (3, 2, 2), (12, 1, 1), (1, 1, 12)):
        cut = Cut(num_lanes=lanes, batch_size=batch, accumulate_steps=count)
        assert np.array_equal(steps(plan(sizes, cut=cut)), whole)


def test_fewer_workers_take_the_lanes_of_all_of_them_step_by_step() -> None:
    planned = plan([[64]], cut=Cut(num_lanes=4, batch_size=2, accumulate_steps=2))
    alone = list(planned.micro_batches(range(4)))
    two = [list(planned.micro_batches(range(rank, 4, 2))) for rank in (0, 1)]
    for step in range(planned.num_steps):
        wanted = {tuple(rows) for rows in alone[step * 8 : (step + 1) * 8]}
        found = {tuple(rows) for own in two for rows in own[step * 4 : (step + 1) * 4]}
        assert len(wanted) == 8
        assert found == wanted


def test_a_lane_begins_at_any_step() -> None:
    planned = plan([[64]], cut=Cut(num_lanes=2, batch_size=2, accumulate_steps=3))
    whole = list(planned.micro_batches([1]))
    assert list(planned.micro_batches([1], first_step=2)) == whole[2 * 3 :]
    assert list(planned.micro_batches([1], first_step=planned.num_steps)) == []


def test_fewer_clips_than_a_batch_are_repeated_to_one_step() -> None:
    planned = plan([[3]], cut=Cut(num_lanes=2, batch_size=4))
    assert planned.num_steps == 1
    assert np.bincount(planned.rows.ravel()).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_repeats_of_a_weight_are_planned_each_by_itself() -> None:
    sizes, cut = [[32] * 200, [32] * 10], Cut(num_lanes=2, batch_size=4)
    in_one_half = []
    for epoch in range(1, 11):
        planned = plan(sizes, cut=cut, epoch=epoch, weights=[1.0, 3.0])
        assert planned.num_steps == (200 * 32 + 3 * 320) // 8
        first, second = np.array_split(steps(planned), 2)
        counts = [np.bincount(half.ravel(), minlength=6720) for half in (first, second)]
        assert set(sum(counts)[:6400]) == {1}
        assert set(sum(counts)[6400:]) == {3}
        in_one_half.append(((counts[0] == 3) | (counts[1] == 3))[6400:].mean())
    assert np.mean(in_one_half) == pytest.approx(0.25, abs=0.15)  # as by chance


def shared_pairs(planned: EpochPlan, shard_of: NDArray[np.int64]) -> float:
    """Of all pairs of clips in a step, the share of those from one shard."""
    shards = np.sort(shard_of[steps(planned)], axis=1)
    same = (shards[:, :, None] == shards[:, None, :]).sum() - shards.size
    return float(same / (shards.shape[0] * shards.shape[1] * (shards.shape[1] - 1)))


@pytest.mark.parametrize(("num_shards", "shard_rows"), [(1, 2000), (3, 700), (20, 32), (128, 32)])
def test_few_shards_are_shuffled_as_one_list_of_clips(num_shards: int, shard_rows: int) -> None:
    """Place in the files, place in the epoch, and who meets whom, against a plain permutation."""
    num_clips = num_shards * shard_rows
    cut, shard_of = Cut(num_lanes=2, batch_size=4), np.arange(num_clips) // shard_rows
    plans = [plan([[shard_rows] * num_shards], cut=cut, epoch=e) for e in range(1, 11)]
    uniform = (shard_rows - 1) / (num_clips - 1)
    met = np.mean([shared_pairs(planned, shard_of) for planned in plans])
    assert met == pytest.approx(uniform, rel=0.1)
    for planned in plans:
        line = planned.rows.ravel()
        assert abs(np.corrcoef(line, np.arange(len(line)))[0, 1]) < 4 / np.sqrt(len(line))
        assert (np.diff(line) == 1).mean() < 0.01  # of a permutation: one of num_clips
    lane = [set(planned.rows[:, 0].ravel().tolist()) for planned in plans]
    again = np.mean([len(a & b) / len(a) for a, b in pairwise(lane)])
    assert again == pytest.approx(0.5, abs=0.03)  # half of a lane's clips are its own again


def open_shards(shards: NDArray[np.int64]) -> tuple[int, int]:
    """Most shards that are between their first and last row, and how many are read at all."""
    num_steps, step = len(shards), np.arange(len(shards))[:, None]
    first, last = np.full(shards.max() + 1, num_steps), np.full(shards.max() + 1, -1)
    np.minimum.at(first, shards, step)
    np.maximum.at(last, shards, step)
    read = last >= 0
    begun = np.bincount(first[read], minlength=num_steps + 1)
    ended = np.bincount(last[read] + 1, minlength=num_steps + 1)
    return int((begun - ended).cumsum().max()), int(read.sum())


@pytest.mark.parametrize(("lanes", "batch"), [(1, 4), (8, 4), (64, 1)])
def test_many_shards_are_open_a_few_at_a_time_and_still_mixed(lanes: int, batch: int) -> None:
    num_shards, shard_rows = 1000, 32
    planned = plan([[shard_rows] * num_shards], cut=Cut(num_lanes=lanes, batch_size=batch))
    shard_of = np.arange(num_shards * shard_rows) // shard_rows
    # at most 1 pair of 100 in a step is of one shard: 128 are drawn from, or 16 a band; and they
    # do meet, at least half as often as in a permutation of all clips
    assert 0.5 / num_shards < shared_pairs(planned, shard_of) < 0.01
    for lane in (0, lanes - 1):
        num_open, num_read = open_shards(shard_of[planned.rows[:, lane]].reshape(-1, batch))
        assert num_open <= 130
        if lanes > 1:  # and no lane reads all of them
            assert num_read < num_shards / 2
    between = [plan([[32] * 1000], cut=Cut(num_lanes=1, batch_size=4), epoch=e) for e in (1, 2)]
    place = [np.argsort(p.rows.ravel()) for p in between]
    assert abs(np.corrcoef(place[0], place[1])[0, 1]) < 0.1


@pytest.mark.parametrize(("num_clips", "world_size"), [(10, 3), (2, 3), (7, 1), (12, 4), (0, 2)])
def test_validation_gives_each_clip_to_one_rank_without_padding(
    num_clips: int, world_size: int
) -> None:
    shares = [even_share(num_clips, rank=r, world_size=world_size) for r in range(world_size)]
    assert [row for share in shares for row in share] == list(range(num_clips))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
