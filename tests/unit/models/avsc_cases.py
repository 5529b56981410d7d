"""A small AVSC, and clips in which the sound decides which of two objects is meant."""

from __future__ import annotations

from typing import Any

import torch
from small_configs import AVSC_OPTIONS
from torch import Tensor

from avs.models import ModelInput, Truth, build_model
from avs.models.avsc import AvscSegmenter

NAMES = ("dog", "car", "bell")


def tiny(
    *, num_classes: int = 1, names: tuple[str, ...] = NAMES, seed: int = 0, **options: Any
) -> AvscSegmenter:
    """A model with random weights, in training mode."""
    torch.manual_seed(seed)
    model = build_model(
        "avsc",
        backbone="test_resnet",
        num_classes=num_classes,
        category_names=names,
        **(AVSC_OPTIONS | options),
    )
    assert isinstance(model, AvscSegmenter)
    return model


def two_objects(num_frames: int = 3) -> tuple[ModelInput, Truth]:
    """Two clips with the same pictures of two objects: only the sound tells which is meant.

    In the first the red one (a dog) is heard, in the second the green one (a car).
    """
    generator = torch.Generator().manual_seed(3)
    frames = 0.3 * torch.rand(1, num_frames, 3, 64, 64, generator=generator).repeat(2, 1, 1, 1, 1)
    masks = torch.zeros(2, num_frames, 64, 64, dtype=torch.uint8)
    for t in range(num_frames):
        red = (t, slice(8 + 2 * t, 30 + 2 * t), slice(6, 26))
        green = (t, slice(28, 56), slice(34 + 2 * t, 58))
        for channel, area in enumerate((red, green)):
            frames[:, area[0], channel, area[1], area[2]] += 1.0
            masks[channel][area] = 1
    sound = torch.randn(2, 1, 128, generator=generator)
    noise = 0.1 * torch.randn(2, num_frames, 128, generator=generator)
    x = ModelInput(frames=frames, audio_embedding=sound + noise)
    return x, truth_of(masks, categories=[[1, 0, 0], [0, 1, 0]])


def truth_of(
    masks: Tensor,
    *,
    categories: list[list[int]] | None,
    mask_valid: Tensor | None = None,
    frame_valid: Tensor | None = None,
    seed: int = 0,
) -> Truth:
    """The truth of clips with these masks [B, T, H, W]."""
    everywhere = torch.ones(masks.shape[:2], dtype=torch.bool)
    return Truth(
        masks=masks,
        mask_valid=everywhere if mask_valid is None else mask_valid,
        frame_valid=frame_valid,
        categories=None if categories is None else torch.tensor(categories, dtype=torch.bool),
        videos=torch.arange(len(masks)),
        seed=seed,
    )
