"""Models that segment frames one by one train on those that a loss looks at, and learn the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from avsc_cases import tiny
from model_cases import truth_of, two_objects
from torch import Tensor, nn

from avs.losses import LossConfig, total_loss
from avs.models import ModelInput, Truth, build_model

CONFIG = LossConfig(dice_weight=1.0)
FIRST = torch.tensor([[True, False, False]] * 2)


def model_of(name: str) -> nn.Module:
    """A model in training whose backbone keeps its statistics."""
    model: nn.Module = tiny()
    if name == "gated":
        torch.manual_seed(0)
        options = {"fusion_width": 16, "audio_dim": int(two_objects()[0].audio_embedding.shape[-1])}
        model = build_model("gated", backbone="test_resnet", num_classes=1, **options)
    model.train().get_submodule("backbone").eval()
    return model


def clips(mask_valid: Tensor) -> tuple[ModelInput, Truth]:
    x, truth = two_objects()
    return x, truth_of(truth.masks, categories=[[1, 0, 0], [0, 1, 0]], mask_valid=mask_valid)


def learn(model: nn.Module, x: ModelInput, truth: Truth) -> tuple[int, Tensor, list[Tensor]]:
    """How many frames the backbone saw, the loss, the gradients."""
    seen: list[int] = []

    def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(len(given[0]))

    hook = model.get_submodule("backbone").register_forward_pre_hook(count)
    loss = total_loss(model, model(x), truth, config=CONFIG)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    hook.remove()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return sum(seen), loss.detach(), gradients


@pytest.mark.parametrize("name", ["gated", "avsc"])
def test_frames_that_no_loss_looks_at_are_left_out_and_nothing_else_changes(name: str) -> None:
    x, truth = clips(FIRST)
    all_seen, whole, of_all = learn(model_of(name), x, truth)
    seen, loss, gradients = learn(model_of(name), replace(x, frame_taught=FIRST), truth)
    assert (all_seen, seen) == (6, 2)
    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-6)
    for own, wanted in zip(gradients, of_all, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["gated", "avsc"])
def test_a_batch_without_ground_truth_still_meets_every_weight(name: str) -> None:
    nothing = torch.zeros_like(FIRST)
    x, truth = clips(nothing)
    seen, loss, _ = learn(model_of(name), replace(x, frame_taught=nothing), truth)
    assert seen == 6
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", ["gated", "avsc"])
def test_every_frame_is_segmented_where_nothing_is_trained(name: str) -> None:
    model, (x, _) = model_of(name).eval(), clips(FIRST)
    with torch.no_grad():
        taught, plain = model(replace(x, frame_taught=FIRST)).logits, model(x).logits
    assert torch.equal(taught, plain)
