"""A small CCFormer for the tests of what is CCFormer's alone."""

from __future__ import annotations

from typing import Any

import torch
from model_cases import CCFORMER_OPTIONS
from torch import nn

from avs.models import ModelInput, Truth, build_model
from avs.models.ccformer import CcformerSegmenter


def tiny(*, num_classes: int = 1, **options: Any) -> CcformerSegmenter:
    """In training mode, weights from a fixed seed."""
    torch.manual_seed(0)
    chosen = CCFORMER_OPTIONS | options
    model = build_model("ccformer", backbone="test_resnet", num_classes=num_classes, **chosen)
    assert isinstance(model, CcformerSegmenter)
    for module in model.modules():  # residual branches of the backbone start at 0
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.1)
    return model


def truth(x: ModelInput, *, num_classes: int = 1, videos: list[int] | None = None) -> Truth:
    """A rectangle in each frame, of a class of its clip; every clip is a video of its own."""
    num_clips, num_frames, _, height, width = x.frames.shape
    masks = torch.zeros(num_clips, num_frames, height, width, dtype=torch.uint8)
    for clip in range(num_clips):
        top, left = 8 * (clip % 3), 12 * (clip % 4)
        masks[clip, :, top : top + 40, left : left + 36] = 1 + clip % max(num_classes - 1, 1)
    return Truth(
        masks=masks,
        mask_valid=torch.ones(num_clips, num_frames, dtype=torch.bool),
        frame_valid=x.frame_valid,
        categories=None,
        videos=torch.tensor(videos if videos is not None else range(num_clips)),
        seed=0,
    )
