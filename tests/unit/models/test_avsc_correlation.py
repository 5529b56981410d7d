"""The correlation of AVSC: which queries count, and how they become one map or classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avs.models.avsc_correlation import (
    Aggregate,
    kept_queries,
    sounding_classes,
    sounding_logits,
    sounding_map,
)
from avs.models.masked_decoder import SetPrediction

# Four queries: a weak and a sure one of class 0, one of class 1, one that sees nothing.
CLASS_LOGITS = torch.tensor(
    [[[2.0, 0.0, 0.0], [6.0, 0.0, 0.0], [0.0, 4.0, 0.0], [1.0, 0.0, 5.0]]], requires_grad=True
)


def prediction(*, num_classes: int = 2) -> SetPrediction:
    """Query q covers row q of 4 x 4 pixels."""
    masks = torch.full((1, 4, 4, 4), -30.0)
    for query in range(4):
        masks[0, query, query] = 30.0
    return SetPrediction(
        queries=torch.zeros(1, 4, 8),
        class_logits=CLASS_LOGITS[..., -1 - num_classes :],
        masks=masks.requires_grad_(),
    )


def classes_of(sound: list[float]) -> Tensor:
    return sounding_classes(prediction(), torch.tensor([sound]), size=(4, 4))


def test_of_each_class_the_surest_query_is_kept_and_those_without_object_are_not() -> None:
    query, sure = kept_queries(CLASS_LOGITS)
    assert query.tolist() == [[1, 2]]
    probability = CLASS_LOGITS.detach().softmax(dim=2)
    torch.testing.assert_close(sure[0], torch.stack((probability[0, 1, 0], probability[0, 2, 1])))
    _, sure = kept_queries(torch.tensor([[[1.0, 0.0, 5.0], [6.0, 0.0, 0.0]]]))
    assert (sure > 0).tolist() == [[True, False]]


def test_the_map_is_the_sum_of_what_each_kept_query_sees_times_how_it_sounds() -> None:
    rows = classes_of([0.7, 0.2])[0, :, :, 0]
    expected = torch.zeros(2, 4)
    expected[0, 1], expected[1, 2] = 0.7, 0.2
    torch.testing.assert_close(rows, expected)
    logits = sounding_logits(classes_of([0.7, 0.2]), aggregate=Aggregate.SUM, semantic=False)
    shown = logits.sigmoid()[0, 0, :, 0]
    torch.testing.assert_close(shown, expected.sum(dim=0), atol=1.1e-4, rtol=0)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("aggregate", "expected"), [(Aggregate.SUM, 1.0), (Aggregate.NOISY_OR, 0.88)]
)
def test_overlapping_objects_are_clamped_or_joined(aggregate: Aggregate, expected: float) -> None:
    both = torch.tensor([0.7, 0.6]).view(1, 2, 1, 1)
    assert sounding_map(both, aggregate=aggregate).item() == pytest.approx(expected)
    apart = torch.tensor([0.7, 0.0]).view(1, 2, 1, 1)
    assert sounding_map(apart, aggregate=aggregate).item() == pytest.approx(0.7)


@pytest.mark.parametrize("aggregate", list(Aggregate))
@pytest.mark.parametrize("sure", [0.0, 0.5, 1.0])
def test_a_map_has_finite_gradients_also_at_its_ends(aggregate: Aggregate, sure: float) -> None:
    classes = torch.full((1, 3, 2, 2), sure, requires_grad=True)
    for semantic in (False, True):
        logits = sounding_logits(classes, aggregate=aggregate, semantic=semantic)
        (gradient,) = torch.autograd.grad(logits.sum(), classes)
        assert logits.isfinite().all()
        assert gradient.isfinite().all()


def test_a_pixel_is_of_the_loudest_class_or_of_the_background() -> None:
    logits = sounding_logits(classes_of([0.7, 0.4]), aggregate=Aggregate.SUM, semantic=True)
    assert logits[0, :, :, 0].argmax(dim=0).tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(1, 4, 4), atol=1e-3, rtol=0)
    binary = sounding_logits(classes_of([0.7, 0.4]), aggregate=Aggregate.SUM, semantic=False)
    assert torch.equal(binary[:, 0] > 0, logits.argmax(dim=1) > 0)


def test_sound_and_masks_learn_from_the_map_and_the_choice_does_not() -> None:
    made, sound = prediction(), torch.tensor([[0.7, 0.2]], requires_grad=True)
    CLASS_LOGITS.grad = None
    sounding_classes(made, sound, size=(8, 8)).sum().backward()
    assert made.masks is not None
    assert made.masks.grad is not None
    assert sound.grad is not None
    assert bool((sound.grad > 0).all())
    assert CLASS_LOGITS.grad is None
