"""C3N models for the tests: the official one with filled weights, and small ones."""

from __future__ import annotations

from typing import Any

import torch
from official_fill import filled_state, inp

from avs.models import ModelInput, build_model, import_official
from avs.models.c3n import C3nSegmenter

BACKBONES = ("pvt_v2_b0", "swin_tiny_patch4_window7_224", "mobilenetv2_050", "test_resnet")
OFFICIAL = {"c3n_pvt": "pvt_v2_b5", "c3n_swin": "swin_base_patch4_window7_224"}


def filled_c3n(case: str) -> C3nSegmenter:
    """The official VGGish model, weights by formula."""
    model = build_model(
        "c3n",
        backbone=OFFICIAL[case],
        num_classes=1,
        similarity=inp("c3n.similarity", (1000, 527)).abs(),
    )
    assert isinstance(model, C3nSegmenter)
    import_official(model, {f"module.{k}": v for k, v in filled_state(case).items()})
    return model.eval()


def official_clip(num_frames: int = 5) -> ModelInput:
    """What the golden values were computed for."""
    return ModelInput(
        frames=inp("frames", (num_frames, 3, 224, 224))[None],
        audio_embedding=inp("audio", (num_frames, 128)).abs()[None],
        audio_logits=(inp("audio_classes", (num_frames, 527)) * 2)[None],
    )


def small_c3n(backbone: str = "test_resnet", *, num_classes: int = 2, **options: Any) -> Any:
    """A random network whose sound and pictures both matter."""
    torch.manual_seed(0)
    given = {"fusion_width": 16, "similarity": inp("c3n.similarity", (1000, 527)).abs()} | options
    model = build_model("c3n", backbone=backbone, num_classes=num_classes, **given)
    assert isinstance(model, C3nSegmenter)
    for module in model.modules():  # fusions and residual branches start at 0: no gradient yet
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():
            torch.nn.init.ones_(module.weight)
    return model.eval()


def small_clip(
    *, num_clips: int = 2, num_frames: int = 2, size: tuple[int, int] = (64, 96)
) -> ModelInput:
    """Random pictures and sound."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(num_clips, num_frames, *shape, generator=generator)

    return ModelInput(
        frames=random(3, *size), audio_embedding=random(128), audio_logits=2 * random(527)
    )
