"""AVSC: it learns to let the sound choose; what must not matter does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from avsc_cases import NAMES, tiny, truth_of, two_objects
from torch import Tensor

from avs.errors import ConfigError
from avs.losses import LossConfig, LossKind, total_loss
from avs.models import ModelInput
from avs.models.avsc import SOUNDING_OBJECT, AvscSegmenter

BINARY = LossConfig(dice_weight=1.0)
SEMANTIC = LossConfig(kind=LossKind.SEMANTIC)


def overlap(seen: Tensor, truth: Tensor) -> float:
    """Mean intersection over union of bool [B, T, H, W]."""
    common, either = (seen & truth).sum(dim=(2, 3)), (seen | truth).sum(dim=(2, 3))
    return float((common / either).mean())


def learn(model: AvscSegmenter, x: ModelInput, truth: Any, *, config: LossConfig) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(60):
        # Inference takes the running statistics of batch norm: they catch up at a falling rate.
        optimizer.param_groups[0]["lr"] = 2e-3 * (1.0 - step / 60)
        losses = total_loss(model, model(x), replace(truth, seed=step), config=config)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    model.eval()


def test_a_batch_is_learnt_and_the_sound_chooses() -> None:
    model, (x, truth) = tiny(), two_objects()
    learn(model, x, truth, config=BINARY)
    with torch.no_grad():
        assert overlap(model(x).logits[:, :, 0] > 0.0, truth.masks > 0) > 0.9


def test_semantic_masks_are_learnt() -> None:
    model, (x, truth) = tiny(num_classes=4), two_objects()
    masks = truth.masks * torch.tensor([1, 3], dtype=torch.uint8).view(2, 1, 1, 1)
    learn(model, x, truth_of(masks, categories=[[1, 0, 0], [0, 0, 1]]), config=SEMANTIC)
    with torch.no_grad():
        logits = model(x).logits
    assert logits.shape == (2, 3, 4, 64, 64)
    said = logits.argmax(dim=2)
    assert overlap(said == masks, torch.ones_like(masks, dtype=torch.bool)) > 0.98
    assert overlap(said > 0, masks > 0) > 0.9


def test_masks_without_names_are_learnt() -> None:
    model, (x, truth) = tiny(categories=False), two_objects()
    x.frames[0, :, 1] = x.frames[0, :, 1].clamp(max=0.3)  # one class: the picture must tell
    x.frames[1, :, 0] = x.frames[1, :, 0].clamp(max=0.3)
    learn(model, x, truth, config=BINARY)
    assert model.category_names == (SOUNDING_OBJECT,)
    with torch.no_grad():
        assert overlap(model(x).logits[:, :, 0] > 0.0, truth.masks > 0) > 0.9


@torch.no_grad()
def test_the_order_of_queries_changes_nothing() -> None:
    model, (x, _) = tiny().eval(), two_objects()
    before = model(x).logits
    order = torch.randperm(8)
    for parameter in (model.objects.queries.content, model.objects.queries.positions):
        parameter.copy_(parameter[order].clone())
    torch.testing.assert_close(model(x).logits, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_padding_changes_nothing(training: bool) -> None:
    model, (x, _) = tiny(), two_objects()
    before = model.eval()(x).logits
    if training:
        before = model.train()(x).logits
    for num_padded, value in ((1, 9.0), (4, -1.0)):
        junk = torch.full((2, num_padded, 3, 64, 64), value)
        padded = ModelInput(
            frames=torch.cat((x.frames, junk), dim=1),
            audio_embedding=torch.cat(
                (x.audio_embedding, torch.full((2, num_padded, 128), value)), dim=1
            ),
            frame_valid=(torch.arange(3 + num_padded) < 3).expand(2, -1),
        )
        logits = model(padded).logits
        torch.testing.assert_close(logits[:, :3], before, atol=1e-5, rtol=1e-5)
        assert not logits[:, 3:].any()


@pytest.mark.parametrize("training", [False, True])
def test_the_objective_does_not_depend_on_padding(training: bool) -> None:
    (x, truth), losses = two_objects(), []
    for num_padded in (0, 2):
        model = tiny().train(training)
        frame_valid = (torch.arange(3 + num_padded) < 3).expand(2, -1)
        zeros = (2, num_padded)
        padded = ModelInput(
            frames=torch.cat((x.frames, torch.randn(*zeros, 3, 64, 64)), dim=1),
            audio_embedding=torch.cat((x.audio_embedding, torch.randn(*zeros, 128)), dim=1),
            frame_valid=frame_valid,
        )
        masks = torch.cat((truth.masks, torch.zeros(*zeros, 64, 64, dtype=torch.uint8)), dim=1)
        known = replace(truth, masks=masks, mask_valid=frame_valid, frame_valid=frame_valid)
        losses.append(total_loss(model, model(padded), known, config=BINARY)["loss"])
    torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (70, 101)])
@pytest.mark.parametrize("num_frames", [1, 2])
@torch.no_grad()
def test_any_size_and_number_of_frames(size: tuple[int, int], num_frames: int) -> None:
    x = ModelInput(
        frames=torch.randn(1, num_frames, 3, *size),
        audio_embedding=torch.randn(1, num_frames, 128),
    )
    output = tiny().eval()(x)
    assert output.logits.shape == (1, num_frames, 1, *size)
    assert output.objects is not None
    assert len(output.objects.predictions) == 1
    assert output.objects.sound_logits.shape == (1, num_frames, 3)


# At the start: a bias of all keys changes no softmax, and offsets of the deformable attention are a
# function of zero weights.
ZERO_BY_DESIGN = ("encoder.level_embedding", "key.bias")


@pytest.mark.parametrize("num_classes", [1, 4])
def test_every_parameter_is_used_and_learns(num_classes: int) -> None:
    model, (x, truth) = tiny(num_classes=num_classes), two_objects()
    for module in model.backbone.modules():  # residual branches start at 0
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    config = BINARY if num_classes == 1 else SEMANTIC
    total_loss(model, model(x), truth, config=config)["loss"].backward()
    named = dict(model.named_parameters())
    assert [name for name, p in named.items() if p.grad is None] == []
    idle = [name for name, p in named.items() if p.grad is not None and not p.grad.any()]
    assert [name for name in idle if not any(part in name for part in ZERO_BY_DESIGN)] == []


def test_a_batch_without_truth_gives_zero_and_a_gradient_for_every_parameter() -> None:
    model, (x, truth) = tiny(), two_objects()
    nothing = replace(truth, mask_valid=torch.zeros(2, 3, dtype=torch.bool))
    assert nothing.categories is not None
    nothing.categories[:] = False
    loss = total_loss(model, model(x), nothing, config=BINARY)["loss"]
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_bfloat16_is_near_float32() -> None:
    losses = []
    for enabled in (False, True):
        model, (x, truth) = tiny(), two_objects()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = model(x)
        assert output.logits.dtype == torch.float32
        loss = total_loss(model, output, truth, config=BINARY)["loss"]
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[0] != losses[1]


def test_names_and_classes_fit_together() -> None:
    assert tiny().category_names == NAMES
    assert tiny(names=()).category_names == (SOUNDING_OBJECT,)
    assert tiny(num_classes=3, names=()).category_names == ("class 1", "class 2")
    with pytest.raises(ConfigError, match=r"category_names holds 3 names.*2 classes"):
        tiny(num_classes=3)
    with pytest.raises(ConfigError, match="categories=false"):
        tiny(num_classes=4, categories=False)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"aggregate": "mean"}, "aggregate='mean': one of sum, noisy_or"),
        ({"num_queries": 0}, "num_queries=0"),
        ({"fusion_width": 30}, "fusion_width=30: a multiple of 4"),
        ({"num_heads": 5}, "num_heads=5"),
        ({"teacher_decay": 1.0}, "teacher_decay=1.0"),
        ({"sound_weight": -1.0}, "sound_weight=-1.0"),
        ({"loss_points": 0}, "loss_points=0"),
    ],
)
def test_options_out_of_range_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**bad)
