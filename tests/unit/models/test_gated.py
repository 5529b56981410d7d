"""The gated baseline: it hears each second for itself, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from avs.errors import ConfigError
from avs.models import ModelInput, build_model


def _model(**options: Any) -> Any:
    torch.manual_seed(0)
    options = {"fusion_width": 16, "audio_dim": 8, "num_classes": 2} | options
    return build_model("gated", backbone="test_resnet", **options).eval()


def _clip(num_frames: int = 3, size: tuple[int, int] = (64, 96)) -> ModelInput:
    generator = torch.Generator().manual_seed(1)
    return ModelInput(
        frames=torch.randn(1, num_frames, 3, *size, generator=generator),
        audio_embedding=torch.randn(1, num_frames, 8, generator=generator),
    )


def test_a_second_is_heard_in_its_own_frame_alone() -> None:
    model, x = _model(), _clip()
    before = model(x).logits
    x.audio_embedding[0, 1] += torch.randn(8, generator=torch.Generator().manual_seed(2))
    after = model(x).logits
    changed = (before - after).abs().amax(dim=(0, 2, 3, 4))
    assert changed[1] > 1e-3
    assert changed[0] == changed[2] == 0.0


@pytest.mark.parametrize("num_classes", [1, 2])
def test_a_gate_that_is_closed_everywhere_leaves_nothing(num_classes: int) -> None:
    model, x = _model(num_classes=num_classes), _clip()
    torch.nn.init.constant_(model.gate.bias, 100.0)
    opened = model(x).logits
    torch.nn.init.constant_(model.gate.bias, -100.0)
    closed = model(x).logits
    assert closed[:, :, -1].max() < -50.0
    assert opened[:, :, -1].min() > -10.0
    if num_classes > 1:
        assert torch.equal(opened[:, :, 0], closed[:, :, 0])


def test_padding_is_silent_and_changes_nothing_for_the_rest() -> None:
    model, x = _model(), _clip()
    real = model(_clip(num_frames=3)).logits
    x.frame_valid = torch.tensor([[True, True, False]])
    padded = model(x).logits
    assert torch.equal(padded[:, :2], real[:, :2])
    assert not padded[:, 2].any()


@pytest.mark.parametrize("size", [(64, 64), (90, 122)])
def test_any_size_gives_logits_of_that_size(size: tuple[int, int]) -> None:
    assert _model()(_clip(size=size)).logits.shape == (1, 3, 2, *size)


def test_widths_that_cannot_be_normed_are_refused() -> None:
    with pytest.raises(ConfigError, match="fusion_width=12: a multiple of 8"):
        _model(fusion_width=12)
    with pytest.raises(ConfigError, match="gate_levels=5: 1 to 4"):
        _model(gate_levels=5)
    with pytest.raises(ConfigError, match="gate_width=0"):
        _model(gate_width=0)
    with pytest.raises(ConfigError, match="audio_dim=0"):
        _model(audio_dim=0)
    with pytest.raises(ConfigError, match="drop_path=1"):
        _model(drop_path=1.0)
