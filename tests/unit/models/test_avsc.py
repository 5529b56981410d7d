"""What is AVSC's alone; test_every_model.py has what it shares with the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from avsc_cases import NAMES, tiny
from model_cases import BINARY, clips, learn, overlap, two_objects

from avs.errors import ConfigError
from avs.losses import total_loss
from avs.models.avsc_options import SOUNDING_OBJECT


def test_masks_without_names_are_learnt() -> None:
    model, (x, truth) = tiny(categories=False), two_objects()
    x.frames[0, :, 1] = x.frames[0, :, 1].clamp(max=0.3)  # one class: the picture must tell
    x.frames[1, :, 0] = x.frames[1, :, 0].clamp(max=0.3)
    learn(model, x, truth, config=BINARY, rate=2e-3, num_steps=60)
    assert model.category_names == (SOUNDING_OBJECT,)
    with torch.no_grad():
        assert overlap(model(x).logits, truth.masks) > 0.9


@torch.no_grad()
def test_the_order_of_queries_changes_nothing() -> None:
    model, (x, _) = tiny().eval(), two_objects()
    before = model(x).logits
    order = torch.randperm(8)
    model.objects.queries.content.copy_(model.objects.queries.content[order].clone())
    half_way = model(x).logits
    model.objects.queries.positions.copy_(model.objects.queries.positions[order].clone())
    torch.testing.assert_close(model(x).logits, before, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(half_way, before, atol=1e-5), "queries do not matter"


@torch.no_grad()
def test_without_training_the_last_prediction_alone_is_made() -> None:
    objects = tiny().eval()(clips(1, num_frames=2)).objects
    assert objects is not None
    assert len(objects.predictions) == 1
    assert objects.sound_logits.shape == (1, 2, 3)


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
        ({"class_weight": -1.0}, "class_weight=-1.0"),
        ({"loss_points": 0}, "loss_points=0"),
    ],
)
def test_options_out_of_range_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**bad)
