"""Intervals over groups of clips."""

from __future__ import annotations

import numpy as np
import pytest

from avs.metrics.bootstrap import grouped_interval


def test_the_mean_is_over_clips_and_lies_in_its_interval() -> None:
    values = [0.1, 0.2, 0.9, 0.4, 0.6]
    interval = grouped_interval(values, ["a", "a", "b", "c", "c"])
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval.low < interval.mean < interval.high
    assert not grouped_interval(np.array(values) - 0.5, list("aabcc")).excludes_zero


def test_clips_of_one_picture_count_as_one_observation() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=10)
    one = grouped_interval(pictures, [str(k) for k in range(10)])
    four = grouped_interval(np.repeat(pictures, 4), [str(k) for k in range(10) for _ in range(4)])
    assert (four.low, four.high) == pytest.approx((one.low, one.high))
    alone = grouped_interval(np.repeat(pictures, 4), [str(k) for k in range(40)])
    assert alone.high - alone.low < 0.7 * (one.high - one.low)


@pytest.mark.parametrize(("num_groups", "num_seeds"), [(30, 1), (7, 1), (30, 3)])
def test_it_holds_the_true_mean_about_as_often_as_it_says(num_groups: int, num_seeds: int) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(200):
        pictures = rng.normal(loc=0.5, size=num_groups)
        trainings = rng.normal(scale=0.1, size=(num_seeds, 1)) if num_seeds > 1 else 0.0
        interval = grouped_interval(
            pictures + trainings,
            [str(k) for k in range(num_groups)],
            num_resamples=400,
            seed=trial,
        )
        held += interval.low <= 0.5 <= interval.high
    assert 0.90 <= held / 200 <= 0.99


def test_a_difference_between_trainings_alone_is_not_told_from_chance() -> None:
    groups = [str(k) for k in range(60)]
    by_seed = np.array([[0.06], [0.0], [0.03]]) + np.zeros((3, 60))
    assert grouped_interval(by_seed.mean(axis=0), groups).excludes_zero
    assert not grouped_interval(by_seed, groups).excludes_zero


def test_equal_differences_have_no_width_and_one_group_has_no_interval() -> None:
    interval = grouped_interval([0.25, 0.25, 0.25], ["a", "b", "b"])
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))
    assert interval.excludes_zero
    with pytest.raises(ValueError, match="1 group of clips: an interval needs 2 or more"):
        grouped_interval([0.1, 0.2], ["a", "a"])
