"""Crops and colours: what of a clip stays together, what stays as it is, and by which seed."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_configs import train_config

from avs.errors import ConfigError
from avs.schema import IGNORE_INDEX
from avs.training.augment import augment, crop_clips, jitter_colours, move_off_screen
from avs.training.batch import Batch
from avs.training.config import JitterEach
from avs.training.feed import ClipReader
from avs.training.state import TrainingState, Worker

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


def heard_batch() -> Batch:
    """A dog, a cat, another dog that meows, and something without a name; each its own sound."""
    batch = batch_of(4)
    batch.categories = [("dog",), ("cat",), ("dog", "cat"), ()]
    number_B = torch.arange(4.0)
    batch.log_mel = number_B.view(4, 1, 1, 1, 1).expand(4, 4, 1, 96, 64).clone()
    batch.waveform = number_B.short().view(4, 1).expand(4, 64_000).clone()
    batch.audio_embedding = number_B.view(4, 1, 1).expand(4, 4, 8).clone()
    batch.audio_logits = number_B.view(4, 1, 1).expand(4, 4, 527).clone()
    batch.masks[0, 0, 0, 0] = IGNORE_INDEX
    return batch


def sounds(batch: Batch) -> list[list[float]]:
    """Of each clip, which sound every tensor says that it hears."""
    assert batch.waveform is not None
    assert batch.audio_embedding is not None
    assert batch.audio_logits is not None
    tensors = (batch.log_mel, batch.waveform, batch.audio_embedding, batch.audio_logits)
    return [[float(tensor[slot].float().mean()) for tensor in tensors] for slot in range(4)]


def test_a_clip_that_hears_another_category_shows_nothing_that_sounds() -> None:
    batch = heard_batch()
    before = deepcopy(batch)
    move_off_screen(batch, [True] * 4)
    # The dog hears the cat. The cat would hear a cat, and the last two have or lend no name.
    assert sounds(batch) == [[1.0] * 4, [1.0] * 4, [2.0] * 4, [3.0] * 4]
    assert batch.categories == [("cat",), ("cat",), ("dog", "cat"), ()]
    assert batch.off_screen is not None
    assert batch.off_screen.tolist() == [True, False, False, False]
    assert set(batch.masks[0].unique().tolist()) == {0, IGNORE_INDEX}
    assert int((batch.masks[0] == IGNORE_INDEX).sum()) == 1
    assert torch.equal(batch.masks[1:], before.masks[1:])
    for name in ("frames", "mask_valid", "frame_valid"):
        assert torch.equal(getattr(batch, name), getattr(before, name))


def test_a_clip_hears_no_padding_where_its_picture_goes_on() -> None:
    batch = heard_batch()
    batch.frame_valid[1, 1] = False  # of the cat's sound, which the dog would hear
    move_off_screen(batch, [True] * 4)
    assert sounds(batch) == [[float(slot)] * 4 for slot in range(4)]
    assert batch.off_screen is None


def test_two_clips_can_hear_each_other() -> None:
    batch = heard_batch()
    batch.categories = [("dog",), ("cat",), ("cow",), ("car",)]
    move_off_screen(batch, [True] * 4)
    assert sounds(batch) == [[1.0] * 4, [2.0] * 4, [3.0] * 4, [0.0] * 4]
    assert batch.categories == [("cat",), ("cow",), ("car",), ("dog",)]


def test_only_the_share_that_is_asked_for_is_moved(tmp_path: Path) -> None:
    moved = 0
    for step in range(200):
        batch = heard_batch()
        loop = train_config(tmp_path, tmp_path, flip=False, batch_size=4, off_screen_ratio=0.25)
        augment(batch, loop=loop.train, seed=[1, step])
        moved += batch.categories[0] == ("cat",)
    assert 30 <= moved <= 70


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"off_screen_ratio": 1.5}, r"train\.off_screen_ratio=1\.5"),
        ({"off_screen_ratio": 0.5, "batch_size": 1}, "it takes two"),
    ],
)
def test_ratios_that_cannot_be_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_config(tmp_path, tmp_path, **changes)


def test_clips_that_name_nothing_cannot_be_moved_and_training_says_so(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(prepared, tmp_path / "run", off_screen_ratio=0.2)
    TrainingState(config, Worker())
    monkeypatch.setattr(ClipReader, "categories", lambda self: [()] * len(self))
    with pytest.raises(ConfigError, match=r"off_screen_ratio=0\.2: no train clip of .*categories="):
        TrainingState(config, Worker())
