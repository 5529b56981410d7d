"""Behaviour of the TPAVI model on a tiny backbone: any T and size, its options, padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_cases import small_model

from avs.errors import ConfigError
from avs.models import MODELS, ModelInput, ModelOutput, build_model
from avs.models.tpavi import TpaviSegmenter


def tiny(**options: Any) -> TpaviSegmenter:
    torch.manual_seed(0)
    # The published start is 0: then sound has no effect yet.
    options = {"fusion_width": 16, "fusion_start": 1.0} | options
    model = build_model("tpavi", backbone="resnet10t", num_classes=2, **options)
    assert isinstance(model, TpaviSegmenter)
    return model.eval()


def clip(*, num_frames: int = 4, size: tuple[int, int] = (64, 64)) -> ModelInput:
    generator = torch.Generator().manual_seed(1)
    return ModelInput(
        frames=torch.randn(2, num_frames, 3, *size, generator=generator),
        audio_embedding=torch.randn(2, num_frames, 128, generator=generator),
        audio_logits=torch.randn(2, num_frames, 527, generator=generator),
    )


@pytest.mark.parametrize(
    "backbone", ["pvt_v2_b0", "mobilenetv2_050", "swin_tiny_patch4_window7_224"]
)
@torch.no_grad()
def test_other_backbones_and_sizes(backbone: str) -> None:
    model = build_model("tpavi", backbone=backbone, num_classes=1, fusion_width=8).eval()
    assert model(clip(num_frames=1, size=(96, 64))).logits.shape == (2, 1, 1, 96, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": (2, 4, 64, 64)}, r"frames .*\[2, 4, 64, 64\]: \[B, T, 3, H, W\] is needed"),
        ({"audio_embedding": (2, 5, 128)}, r"audio_embedding .*\[2, 5, 128\]: \[2, 4, 128\]"),
        ({"audio_embedding": (4, 2, 128)}, r"audio_embedding .*\[4, 2, 128\]: \[2, 4, 128\]"),
        ({"audio_embedding": (2, 4, 64)}, r"audio_embedding .*\[2, 4, 64\]: \[2, 4, 128\]"),
        ({"audio_logits": (2, 4, 521)}, r"audio_logits .*\[2, 4, 521\]: \[2, 4, 527\]"),
        ({"frame_valid": (2, 5)}, r"frame_valid .*\[2, 5\]: \[2, 4\].*frames \[2, 4, 3, 64, 64\]"),
    ],
)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_shapes_that_do_not_belong_together_are_told(
    name: str, changes: dict[str, tuple[int, ...]], message: str
) -> None:
    model = small_model(name)
    x = replace(clip(), **{field: torch.ones(shape) for field, shape in changes.items()})
    with pytest.raises(ValueError, match=message):
        model(x)


@torch.no_grad()
def test_a_model_that_does_not_listen_takes_any_sound() -> None:
    x = replace(clip(), audio_embedding=torch.zeros(2, 4, 7))
    assert tiny(use_audio=False)(x).logits.isfinite().all()


@torch.no_grad()
def test_chosen_stages_fuse_and_the_others_pass_the_neck_through() -> None:
    model = tiny(fusion_stages=(3, 4))
    output: ModelOutput = model(clip())
    assert sorted(model.fusions) == ["3", "4"]
    assert output.projected_audio is not None
    assert [audio is not None for audio in output.projected_audio] == [False, False, True, True]
    assert output.fused_maps is not None
    stage_1 = model.necks[0](model.backbone(clip().frames.flatten(0, 1))[0]).relu()
    torch.testing.assert_close(output.fused_maps[0].flatten(0, 1), stage_1)


@torch.no_grad()
def test_temporal_group_keeps_groups_apart() -> None:
    x, changed = clip(), clip()
    changed.audio_embedding[:, 2:] += 3.0
    grouped, together = tiny(temporal_group=2), tiny()
    first = slice(0, 2)
    assert torch.equal(grouped(x).logits[:, first], grouped(changed).logits[:, first])
    assert not torch.allclose(together(x).logits[:, first], together(changed).logits[:, first])
    with pytest.raises(ConfigError, match=r"temporal_group=3.*4 frames"):
        tiny(temporal_group=3)(clip())


@torch.no_grad()
def test_without_audio_the_sound_changes_nothing() -> None:
    x, changed = clip(), clip()
    changed.audio_embedding += 3.0
    assert torch.equal(tiny(use_audio=False)(x).logits, tiny(use_audio=False)(changed).logits)
    assert not torch.allclose(tiny()(x).logits, tiny()(changed).logits)


@torch.no_grad()
def test_padded_frames_have_zero_logits_and_maps() -> None:
    x = clip()
    x.frame_valid = torch.tensor([[True] * 4, [True, True, False, False]])
    output: ModelOutput = tiny()(x)
    assert float(output.logits[1, 2:].abs().max()) == 0.0
    assert float(output.logits[1, :2].abs().min()) > 0.0
    assert output.fused_maps is not None
    assert all(float(fused[1, 2:].abs().max()) == 0.0 for fused in output.fused_maps)
    plain = tiny()(clip())
    assert torch.equal(output.logits[0], plain.logits[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion_stages": (0, 4)}, "fusion_stages"),
        ({"fusion_stages": ()}, "fusion_stages"),
        ({"fusion_start": -0.5}, "fusion_start=-0.5: 0"),
        ({"fusion_width": 15}, "fusion_width=15"),
        ({"temporal_group": 0}, "temporal_group=0"),
        ({"drop_path": 1.5}, "drop_path=1.5"),
        ({"audio_dim": 0}, "audio_dim=0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**options)
