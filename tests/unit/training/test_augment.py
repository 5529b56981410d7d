"""Crops and colours: what of a clip stays together, what stays as it is, and by which seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_configs import train_config

from avs.training.augment import augment, crop_clips, jitter_colours
from avs.training.config import JitterEach
from avs.training.feed import Batch

SIDE = 32


def batch_of(num_clips: int = 3) -> Batch:
    """Every pixel tells where it is; the mask is 1 in the right half; the last frame is padding."""
    row = torch.arange(SIDE, dtype=torch.uint8) * 8
    x, y = row.expand(SIDE, SIDE), row.unsqueeze(1).expand(SIDE, SIDE)
    frames = torch.stack([x, y, torch.zeros_like(x)]).expand(num_clips, 4, 3, SIDE, SIDE).clone()
    frames[:, -1] = torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8)
    valid = torch.tensor([True, True, True, False]).expand(num_clips, 4).clone()
    return Batch(
        clip_ids=[f"x/y/{k}" for k in range(num_clips)],
        categories=[()] * num_clips,
        frames=frames,
        log_mel=torch.zeros(num_clips, 4, 1, 96, 64),
        masks=(frames[:, :, 0] >= 128).byte() * valid[..., None, None],
        mask_valid=valid.clone(),
        frame_valid=valid,
    )


def crop(batch: Batch, scale: Sequence[float], ratio: Sequence[float] = (0.75, 1.3333)) -> None:
    crop_clips(batch, scale=scale, ratio=ratio, rng=np.random.default_rng(3))


def test_frames_and_masks_of_a_clip_are_cropped_alike_and_clips_differently() -> None:
    before, after = batch_of(), batch_of()
    after.frames[:, -1] = before.frames[:, -1]
    crop(after, (0.2, 0.5))
    for clip_T3HW in after.frames:
        assert torch.equal(clip_T3HW[0], clip_T3HW[1])
        assert torch.equal(clip_T3HW[0], clip_T3HW[2])
    assert not torch.equal(after.frames[0, 0], after.frames[1, 0])
    # A mask still says where its frame is right of the middle, but for the pixel at the edge.
    told, shown = after.masks[:, :3] > 0, after.frames[:, :3, 0].int()
    assert bool((told | (shown < 128 + 8)).all())
    assert bool((~told | (shown >= 128 - 8)).all())
    assert set(after.masks.unique().tolist()) <= {0, 1}
    assert 0 < int(told.sum()) < told.numel()


def test_a_crop_leaves_padding_as_it_was() -> None:
    before = batch_of()
    after = before.to(torch.device("cpu"))
    after.frames, after.masks = before.frames.clone(), before.masks.clone()
    crop(after, (0.2, 0.5))
    assert torch.equal(after.frames[:, -1], before.frames[:, -1])
    assert torch.equal(after.masks[:, -1], before.masks[:, -1])
    assert torch.equal(after.frame_valid, batch_of().frame_valid)
    assert torch.equal(after.mask_valid, batch_of().mask_valid)
    assert not torch.equal(after.frames[:, 0], before.frames[:, 0])


def test_a_crop_is_of_the_share_and_ratio_that_are_asked_for() -> None:
    batch = batch_of(num_clips=8)
    crop(batch, (0.25, 0.25), (1.0, 1.0))
    seen = batch.frames[:, 0, 0].flatten(1).int()
    width_px = (seen.amax(dim=1) - seen.amin(dim=1)) / 8 + 1
    assert width_px.tolist() == pytest.approx([SIDE / 2] * 8, abs=1.0)
    whole = batch_of()
    frames = whole.frames.clone()
    crop(whole, (1.0, 1.0), (1.0, 1.0))
    assert torch.equal(whole.frames, frames)
    crop(whole, (1.0, 1.0), (3.0, 4.0))  # fits nowhere
    assert torch.equal(whole.frames, frames)


def test_colours_are_those_of_a_clip_where_that_is_asked_for() -> None:
    strength = (0.4, 0.4, 0.4, 0.1)
    alike = {}
    for each in JitterEach:
        batch = batch_of()
        jitter_colours(batch, strength, rng=np.random.default_rng(0), each=each)
        alike[each] = [torch.equal(clip[0], clip[1]) for clip in batch.frames]
        assert not torch.equal(batch.frames[0, 0], batch.frames[1, 0])
        assert not torch.equal(batch.frames[:, 0], batch_of().frames[:, 0])
    assert alike == {JitterEach.CLIP: [True] * 3, JitterEach.FRAME: [False] * 3}


def test_every_draw_follows_from_the_seed(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"crop_scale": (0.3, 0.9), "color_jitter": (0.4, 0.4, 0.4, 0.1)}
    loop = train_config(tmp_path, tmp_path, **changes).train
    padding = batch_of().frames[:, -1]

    def changed(seed: list[int]) -> torch.Tensor:
        batch = batch_of()
        batch.frames[:, -1] = padding
        torch.rand(len(seed))  # the global random state has no say
        augment(batch, loop=loop, seed=seed)
        return batch.frames

    first = changed([1, 2, 3, 0])
    assert torch.equal(changed([1, 2, 3, 0]), first)
    for other in ([2, 2, 3, 0], [1, 3, 3, 0], [1, 2, 4, 0], [1, 2, 3, 1]):
        assert not torch.equal(changed(other), first)
