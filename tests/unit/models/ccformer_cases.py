"""A small CCFormer and clips for it, shared by its tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avs.models import ModelInput, Truth, build_model
from avs.models.ccformer import CcformerSegmenter

TINY = {
    "num_queries": 5,
    "num_eim_levels": 4,
    "num_extra_levels": 0,
    "num_encoder_layers": 1,
    "num_decoder_layers": 3,
    "fusion_width": 16,
    "ffn_width": 32,
    "num_heads": 2,
}


def tiny(*, num_classes: int = 1, **options: Any) -> CcformerSegmenter:
    """In training mode, weights from a fixed seed."""
    torch.manual_seed(0)
    chosen = TINY | options
    model = build_model("ccformer", backbone="test_resnet", num_classes=num_classes, **chosen)
    assert isinstance(model, CcformerSegmenter)
    for module in model.modules():  # residual branches of the backbone start at 0
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.1)
    return model


def clips(
    num_clips: int = 2, *, num_frames: int = 3, size: tuple[int, int] = (64, 96), seed: int = 1
) -> ModelInput:
    """Pictures and sound of noise."""
    generator = torch.Generator().manual_seed(seed)
    return ModelInput(
        frames=torch.randn(num_clips, num_frames, 3, *size, generator=generator),
        audio_embedding=torch.randn(num_clips, num_frames, 128, generator=generator),
    )


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


def overlap(logits_BTKHW: Tensor, masks_BTHW: Tensor) -> float:
    """Mean Jaccard index of the frames, of what is not background."""
    if logits_BTKHW.shape[2] == 1:
        seen = logits_BTKHW[:, :, 0] > 0
    else:
        seen = (logits_BTKHW.argmax(dim=2) == masks_BTHW) & (masks_BTHW > 0)
        seen |= (logits_BTKHW.argmax(dim=2) > 0) & (masks_BTHW == 0)
    there = masks_BTHW > 0
    both, either = (seen & there).sum(dim=(2, 3)), (seen | there).sum(dim=(2, 3))
    return float((both / either).mean())
