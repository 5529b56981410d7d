"""Random changes of training clips: cropped and mirrored as a whole, colours and sounds changed.

A cropped or mirrored frame needs its mask treated the same, and all frames of a clip the same way,
or motion would break; colours are drawn for each frame by itself, as C3N's recipe says, or for a
clip. Every draw is a function of the seed that is passed in, never of torch's global random state,
so a resumed run changes the same frames in the same way.

Shapes: B clips, T frames, R real frames of a clip, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avs.schema import IGNORE_INDEX
from avs.training.batch import Batch
from avs.training.config import JitterEach, LoopConfig

__all__ = ["augment", "crop_clips", "flip_clips", "jitter_colours", "move_off_screen"]

# Keep the other draws apart from those of the flips.
_JITTER, _CROP, _SOUND = 1, 2, 3
_TRIES = 10  # for a crop of the ratio that was drawn to fit into the picture


def augment(batch: Batch, *, loop: LoopConfig, seed: Sequence[int]) -> None:
    """Change ``batch`` in place as ``loop`` asks; ``seed`` decides every draw."""
    if loop.crop_scale is not None:
        rng = np.random.default_rng([*seed, _CROP])
        crop_clips(batch, scale=loop.crop_scale, ratio=loop.crop_ratio, rng=rng)
    if loop.flip:
        chosen_B = np.random.default_rng(seed).random(len(batch.clip_ids)) < 0.5
        flip_clips(batch, torch.from_numpy(chosen_B).to(batch.frames.device))
    if loop.color_jitter is not None:
        rng = np.random.default_rng([*seed, _JITTER])
        jitter_colours(batch, loop.color_jitter, rng=rng, each=loop.color_jitter_each)
    if loop.off_screen_ratio:
        rng = np.random.default_rng([*seed, _SOUND])
        move_off_screen(batch, rng.random(len(batch.clip_ids)) < loop.off_screen_ratio)


def crop_clips(
    batch: Batch, *, scale: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> None:
    """Cut a random part of each clip, the same of all its frames and masks, and resize it back.

    scale, ratio: smallest and largest share of the area, and width by height (drawn evenly on a
    logarithmic scale), as torchvision's RandomResizedCrop takes them. Masks take the nearest pixel.
    Padded frames stay as they are, and which frames are padding or have ground truth does too.
    """
    tvf = _torchvision()
    height, width = batch.frames.shape[-2:]
    for slot in range(len(batch.clip_ids)):
        box = _crop_box(height, width, scale=scale, ratio=ratio, rng=rng)
        real_T = batch.frame_valid[slot]
        frames_R3HW = tvf.resized_crop(batch.frames[slot, real_T], *box, [height, width])
        batch.frames[slot, real_T] = frames_R3HW
        batch.masks[slot, real_T] = tvf.resized_crop(
            batch.masks[slot, real_T],
            *box,
            [height, width],
            interpolation=tvf.InterpolationMode.NEAREST_EXACT,
        )


def flip_clips(batch: Batch, chosen_B: Tensor) -> None:
    """Mirror frames and masks of the chosen clips, the same for all frames of a clip."""
    batch.frames[chosen_B] = batch.frames[chosen_B].flip(-1)
    batch.masks[chosen_B] = batch.masks[chosen_B].flip(-1)


def jitter_colours(
    batch: Batch,
    strength: Sequence[float],
    *,
    rng: np.random.Generator,
    each: JitterEach = JitterEach.FRAME,
) -> None:
    """Change the colours of each frame (or clip) by itself, in place; masks stay.

    strength: brightness, contrast, saturation (factors 1 - s .. 1 + s) and hue (-s .. s of the
    circle), in random order: torchvision's ColorJitter, with draws from ``rng``.
    """
    for slot, clip_T3HW in enumerate(batch.frames):
        if each is JitterEach.CLIP:
            batch.frames[slot] = _jittered(clip_T3HW, strength, rng)
            continue
        for index, frame_3HW in enumerate(clip_T3HW):
            clip_T3HW[index] = _jittered(frame_3HW, strength, rng)


def move_off_screen(batch: Batch, chosen_B: Sequence[bool] | np.ndarray) -> None:
    """Let the chosen clips hear the next clip of the batch, where the two share no category.

    Nothing that is seen sounds then: their masks are empty (ignored pixels stay ignored), their
    categories are those of the sound, and ``batch.off_screen`` says so. A clip without named
    categories is left as it is, and lends no sound, because nothing says that it does not fit; nor
    does one lend its sound to a clip with more real frames. What the audio network made of the
    sound before goes along.
    """
    named = [set(names) for names in batch.categories]
    donors = [(slot + 1) % len(named) for slot in range(len(named))]
    moved = [
        slot
        for slot, donor in enumerate(donors)
        if chosen_B[slot] and named[slot] and named[donor] and not named[slot] & named[donor]
        if not (batch.frame_valid[slot] & ~batch.frame_valid[donor]).any()
    ]
    if not moved:
        return
    given = [donors[slot] for slot in moved]
    for sound in (batch.log_mel, batch.waveform, batch.audio_embedding, batch.audio_logits):
        if sound is not None:
            sound[moved] = sound[given]  # the right side is a copy
    masks_XTHW = batch.masks[moved]
    batch.masks[moved] = masks_XTHW.where(masks_XTHW == IGNORE_INDEX, torch.zeros_like(masks_XTHW))
    batch.off_screen = torch.zeros(len(named), dtype=torch.bool, device=batch.masks.device)
    batch.off_screen[moved] = True
    heard = [batch.categories[donor] for donor in given]
    for slot, names in zip(moved, heard, strict=True):
        batch.categories[slot] = names


def _crop_box(
    height: int,
    width: int,
    *,
    scale: Sequence[float],
    ratio: Sequence[float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop in pixels; the whole picture where none fits."""
    for _ in range(_TRIES):
        area = height * width * rng.uniform(scale[0], scale[1])
        wide = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        tall_px, wide_px = round(math.sqrt(area / wide)), round(math.sqrt(area * wide))
        if 0 < tall_px <= height and 0 < wide_px <= width:
            top = int(rng.integers(height - tall_px + 1))
            left = int(rng.integers(width - wide_px + 1))
            return top, left, tall_px, wide_px
    return 0, 0, height, width


def _jittered(x_3HW: Tensor, strength: Sequence[float], rng: np.random.Generator) -> Tensor:
    """A frame, or all frames of a clip [T, 3, H, W] by the same draws."""
    tvf = _torchvision()
    brightness, contrast, saturation, hue = strength
    changes: list[Callable[[Tensor], Tensor]] = [
        partial(tvf.adjust_brightness, brightness_factor=_factor(brightness, rng)),
        partial(tvf.adjust_contrast, contrast_factor=_factor(contrast, rng)),
        partial(tvf.adjust_saturation, saturation_factor=_factor(saturation, rng)),
        partial(tvf.adjust_hue, hue_factor=float(rng.uniform(-hue, hue))),
    ]
    for index in rng.permutation(len(changes)):
        x_3HW = changes[index](x_3HW)
    return x_3HW


def _torchvision() -> Any:
    """Imported when it is first needed: it takes three seconds, and mirroring needs none of it."""
    from torchvision.transforms import functional  # type: ignore[import-untyped]

    return functional


def _factor(strength: float, rng: np.random.Generator) -> float:
    return float(rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength))
