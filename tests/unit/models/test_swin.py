"""Swin under TPAVI: timm's numbers at its own size, C3N's at every other one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from c3n_cases import small_c3n
from torch import Tensor

from avs.models import ModelInput, build_model
from avs.models.backbones import build_backbone
from avs.models.classified_backbone import build_classified_backbone

SWIN = "swin_tiny_patch4_window7_224"


def strengthened(net: torch.nn.Module) -> None:
    """Let positions within a window matter: at the start their table is nearly 0."""
    for name, parameter in net.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(parameter)


@pytest.fixture(scope="module")
def trunks() -> tuple[Any, Any]:
    """TPAVI's backbone and C3N's with the same weights. Tests must leave them as they are."""
    torch.manual_seed(0)
    c3n = build_classified_backbone(SWIN, weights="random").eval()
    strengthened(c3n.net)
    tpavi = build_backbone(SWIN, weights="random").eval()
    tpavi.net.load_state_dict(feature_state(c3n.net))
    return tpavi, c3n


def feature_state(net: torch.nn.Module) -> dict[str, Tensor]:
    """The state of a whole Swin without norm and head, named as timm's feature networks are."""
    named = {re.sub(r"^layers\.(\d)", r"layers_\1", k): v for k, v in net.state_dict().items()}
    return {name: v for name, v in named.items() if not name.startswith(("norm.", "head."))}


def blocks(c3n: Any, x: Tensor) -> list[Tensor]:
    return [block.detach().permute(0, 3, 1, 2) for block in c3n(x).blocks]


@pytest.mark.parametrize(("num_frames", "size"), [(1, (160, 256)), (3, (288, 96)), (2, (256, 256))])
@torch.no_grad()
def test_maps_are_those_of_c3n(
    trunks: tuple[Any, Any], num_frames: int, size: tuple[int, int]
) -> None:
    tpavi, c3n = trunks
    x = torch.randn(num_frames, 3, *size)
    ours = tpavi(x)
    assert [tuple(m.shape[2:]) for m in ours] == [
        (size[0] // stride, size[1] // stride) for stride in (4, 8, 16, 32)
    ]
    assert all(m.is_contiguous() for m in ours)
    for one, expected in zip(ours, blocks(c3n, x), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_at_its_own_size_maps_are_those_of_timm(trunks: tuple[Any, Any]) -> None:
    """And of C3N, but for stage 4: its one window covers the map, where only C3N shifts."""
    tpavi, c3n = trunks
    x = torch.randn(2, 3, 224, 224)
    reference = timm.create_model(SWIN, features_only=True).eval()
    reference.load_state_dict(tpavi.net.state_dict())
    ours, c3n_maps = tpavi(x), blocks(c3n, x)
    for one, timms in zip(ours, reference(x), strict=True):
        torch.testing.assert_close(one, timms.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)
    for one, expected in zip(ours[:3], c3n_maps[:3], strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours[3], c3n_maps[3], atol=1e-3)


@pytest.mark.parametrize("num_frames", [1, 4])
@torch.no_grad()
def test_a_frame_is_seen_alike_in_clips_of_any_length(num_frames: int) -> None:
    torch.manual_seed(0)
    model = build_model("tpavi", backbone=SWIN, num_classes=1, fusion_width=16).eval()
    strengthened(model.backbone)
    x = ModelInput(
        frames=torch.randn(1, num_frames, 3, 96, 160),
        audio_embedding=torch.randn(1, num_frames, 128),
    )
    logits = model(x).logits
    assert logits.shape == (1, num_frames, 1, 96, 160)
    for t in range(num_frames):  # the fusion, which joins frames, starts at 0
        alone = ModelInput(frames=x.frames[:, [t]], audio_embedding=x.audio_embedding[:, [t]])
        torch.testing.assert_close(model(alone).logits[:, 0], logits[:, t], atol=1e-5, rtol=1e-5)


def test_parameters_are_named_as_in_timm() -> None:
    backbone = build_backbone(SWIN, weights="random")
    expected = timm.create_model(SWIN, features_only=True).state_dict()
    assert {k: v.shape for k, v in backbone.net.state_dict().items()} == {
        k: v.shape for k, v in expected.items()
    }


def test_every_parameter_gets_a_gradient() -> None:
    backbone = build_backbone(SWIN, weights="random", drop_path=0.1).train()
    torch.stack([m.square().mean() for m in backbone(torch.randn(1, 3, 64, 96))]).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_weights_come_from_a_timm_checkpoint(tmp_path: Path) -> None:
    whole = timm.create_model(SWIN)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = build_backbone(SWIN, weights=str(tmp_path / "whole.pth"))
    for name, value in feature_state(whole).items():
        assert torch.equal(backbone.net.state_dict()[name], value), name


def test_c3n_and_tpavi_take_any_size() -> None:
    """Sides that neither 32 nor the window divides."""
    x = torch.randn(1, 3, 52, 116)
    tpavi = build_backbone(SWIN, weights="random").eval()
    c3n = small_c3n(SWIN).backbone
    sizes = [(13, 29), (7, 15), (4, 8), (2, 4)]
    assert [tuple(m.shape[2:]) for m in tpavi(x)] == sizes
    assert [tuple(m.shape[2:]) for m in c3n(x).maps] == sizes
