"""What a step knows of its clips: categories, source videos, a seed that all ranks share."""

from __future__ import annotations

import pytest
import torch

from avs.training.batch import Batch
from avs.training.truth import batch_truth, source_video, step_seed


def batch(ids: list[str], categories: list[tuple[str, ...]], *, padded: int = 0) -> Batch:
    frame_valid = torch.arange(3) < 3 - padded
    flags = torch.ones(len(ids), 3, dtype=torch.bool)
    return Batch(
        clip_ids=ids,
        categories=categories,
        frames=torch.zeros(len(ids), 3, 3, 8, 8, dtype=torch.uint8),
        log_mel=torch.zeros(len(ids), 3, 1, 96, 64),
        masks=torch.ones(len(ids), 3, 8, 8, dtype=torch.uint8),
        mask_valid=flags,
        frame_valid=flags & frame_valid,
    )


def test_categories_follow_the_names_of_the_model() -> None:
    clips = batch(["s4/v1s/a", "s4/v1s/b"], [("dog", "car"), ("something else",)])
    truth = batch_truth(clips, category_names=["car", "bell", "dog"], seed=7)
    assert truth.categories is not None
    assert truth.categories.tolist() == [[True, False, True], [False, False, False]]
    assert truth.seed == 7
    assert truth.frame_valid is None
    assert batch_truth(clips, category_names=[], seed=7).categories is None


def test_padding_is_told() -> None:
    truth = batch_truth(batch(["avss/v2/a"], [()], padded=1), category_names=[], seed=0)
    assert truth.frame_valid is not None
    assert truth.frame_valid.tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("ms3/v1m/-bSAhWRmz8s_1", "ms3/v1m/-bSAhWRmz8s_2", True),
        ("ms3/v1m/-bSAhWRmz8s_1", "ms3/v1m/-bSAhWRmz8t_1", False),
        ("avss/v1m/-bSAhWRmz8s_1", "ms3/v1m/-bSAhWRmz8s_2", True),
        ("avss/v2/-bSAhWRmz8s_1000_11000", "avss/v2/-bSAhWRmz8s_20000_30000", True),
        ("folder/videos/a.mp4@0", "folder/videos/a.mp4@5000", True),
        ("folder/videos/a.mp4@0", "folder/videos/b.mp4@0", False),
        ("folder/videos/a@home.mp4", "folder/videos/a@work.mp4", False),
        ("synthetic/all/a_1", "synthetic/all/a_2", False),
    ],
)
def test_clips_of_one_source_video_are_told_apart_from_others(
    first: str, second: str, same: bool
) -> None:
    assert (source_video(first) == source_video(second)) == same
    one, other = batch_truth(batch([first, second], [(), ()]), category_names=[], seed=0).videos
    assert (int(one) == int(other)) == same
    alone = batch_truth(batch([first], [()]), category_names=[], seed=0).videos
    assert int(alone[0]) == int(one), "another rank gives the same number"


def test_the_seed_of_a_step_is_its_own_and_that_of_every_rank() -> None:
    seeds = {
        step_seed(seed, epoch=epoch, step=step)
        for seed in (1, 2)
        for epoch in (1, 2)
        for step in (0, 1)
    }
    assert len(seeds) == 8
    assert step_seed(1, epoch=1, step=0) in seeds
