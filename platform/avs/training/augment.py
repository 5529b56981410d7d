"""Random changes of training clips: mirrored as a whole, colours changed frame by frame.

A mirrored frame needs its mask mirrored with it, and all frames of a clip the same way, or motion
would break; colours are drawn for each frame by itself, as C3N's recipe says. Every draw is a
function of the seed that is passed in, never of torch's global random state, so a resumed run
changes the same frames in the same way.

Shapes: B clips, T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import functional as tvf  # type: ignore[import-untyped]

from avs.training.config import LoopConfig
from avs.training.feed import Batch

__all__ = ["augment", "flip_clips", "jitter_colours"]

_JITTER = 1  # keeps the colour draws apart from those of the flips


def augment(batch: Batch, *, loop: LoopConfig, seed: Sequence[int]) -> None:
    """Change ``batch`` in place as ``loop`` asks; ``seed`` decides every draw."""
    if loop.flip:
        chosen_B = np.random.default_rng(seed).random(len(batch.clip_ids)) < 0.5
        flip_clips(batch, torch.from_numpy(chosen_B).to(batch.frames.device))
    if loop.color_jitter is not None:
        jitter_colours(batch, loop.color_jitter, rng=np.random.default_rng([*seed, _JITTER]))


def flip_clips(batch: Batch, chosen_B: Tensor) -> None:
    """Mirror frames and masks of the chosen clips, the same for all frames of a clip."""
    batch.frames[chosen_B] = batch.frames[chosen_B].flip(-1)
    batch.masks[chosen_B] = batch.masks[chosen_B].flip(-1)


def jitter_colours(batch: Batch, strength: Sequence[float], *, rng: np.random.Generator) -> None:
    """Change the colours of each frame by itself, in place; masks stay.

    strength: brightness, contrast, saturation (factors 1 - s .. 1 + s) and hue (-s .. s of the
    circle), in random order: torchvision's ColorJitter, with draws from ``rng``.
    """
    for clip in batch.frames:
        for index, frame_3HW in enumerate(clip):
            clip[index] = _jittered(frame_3HW, strength, rng)


def _jittered(frame_3HW: Tensor, strength: Sequence[float], rng: np.random.Generator) -> Tensor:
    brightness, contrast, saturation, hue = strength
    changes: list[Callable[[Tensor], Tensor]] = [
        partial(tvf.adjust_brightness, brightness_factor=_factor(brightness, rng)),
        partial(tvf.adjust_contrast, contrast_factor=_factor(contrast, rng)),
        partial(tvf.adjust_saturation, saturation_factor=_factor(saturation, rng)),
        partial(tvf.adjust_hue, hue_factor=float(rng.uniform(-hue, hue))),
    ]
    for index in rng.permutation(len(changes)):
        frame_3HW = changes[index](frame_3HW)
    return frame_3HW


def _factor(strength: float, rng: np.random.Generator) -> float:
    return float(rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength))
