"""What speed must not cost: any clip length and picture, compiled and in half precision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from official_fill import inp

from avs.models import ModelInput, ModelOutput, build_model
from avs.models.tpavi import TpaviSegmenter

BACKBONES = ["pvt_v2_b0", "resnet10t", "swin_tiny_patch4_window7_224"]


def small(backbone: str, **options: Any) -> TpaviSegmenter:
    torch.manual_seed(0)
    model = build_model("tpavi", backbone=backbone, num_classes=2, fusion_width=16, **options)
    assert isinstance(model, TpaviSegmenter)
    for block in model.fusions.values():  # starts at 0: then the fusion would not be seen
        torch.nn.init.normal_(block.bn.weight)
    return model.eval()


def clip(*, num_frames: int, size: tuple[int, int], num_clips: int = 1) -> ModelInput:
    generator = torch.Generator().manual_seed(1)
    return ModelInput(
        frames=torch.randn(num_clips, num_frames, 3, *size, generator=generator),
        audio_embedding=torch.randn(num_clips, num_frames, 128, generator=generator),
    )


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("size", [(32, 96), (160, 64), (96, 224)])
@torch.no_grad()
def test_any_picture_whose_sides_32_divides(backbone: str, size: tuple[int, int]) -> None:
    output: ModelOutput = small(backbone)(clip(num_frames=2, size=size))
    assert output.logits.shape == (1, 2, 2, *size)
    assert bool(output.logits.isfinite().all())
    assert float(output.logits.std()) > 0.0


@pytest.mark.parametrize(
    ("backbone", "lengths"),
    [
        ("resnet10t", range(1, 61)),
        ("pvt_v2_b0", (1, 2, 5, 10, 33, 60)),
        ("swin_tiny_patch4_window7_224", (1, 7, 60)),
    ],
)
@torch.no_grad()
def test_any_number_of_frames_from_1_to_60(backbone: str, lengths: Iterable[int]) -> None:
    model = small(backbone)
    for num_frames in lengths:
        output: ModelOutput = model(clip(num_frames=num_frames, size=(32, 32)))
        assert output.logits.shape == (1, num_frames, 2, 32, 32)
        assert bool(output.logits.isfinite().all()), num_frames


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other(backbone: str) -> None:
    model = small(backbone)
    both = clip(num_frames=3, size=(64, 96), num_clips=2)
    second = ModelInput(frames=both.frames[1:], audio_embedding=both.audio_embedding[1:])
    torch.testing.assert_close(model(both).logits[1:], model(second).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.full
# torch 2.11: its compiler still uses what it has deprecated (torch/utils/mkldnn.py)
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_equals_eager() -> None:
    model = small("resnet10t")
    x = clip(num_frames=2, size=(64, 64))
    compiled = torch.compile(model)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x).logits, model(x).logits, atol=1e-4, rtol=0)


@pytest.mark.full
@torch.no_grad()
def test_bfloat16_keeps_the_masks(filled_pvt: TpaviSegmenter) -> None:
    x = ModelInput(
        frames=inp("frames", (5, 3, 224, 224))[None],
        audio_embedding=inp("audio", (5, 128)).abs()[None],
    )
    exact = filled_pvt(x).logits
    with torch.autocast("cpu", torch.bfloat16):
        half = filled_pvt(x).logits.float()
    error = float((half - exact).norm() / exact.norm())
    changed = float(((half > 0) != (exact > 0)).float().mean())
    assert error <= 0.08, error
    assert changed <= 0.02, changed
    assert error > 0.0, "autocast did not reach the model"
