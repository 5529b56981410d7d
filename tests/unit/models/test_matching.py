"""Matching: the cheapest assignment, by the published costs, of what has ground truth."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.models.matching import (
    Match,
    MatchingCosts,
    Targets,
    class_targets,
    match,
    matching_costs,
)
from avs.models.point_sampling import random_points, sample_points

COSTS = MatchingCosts(num_points=64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objects(num: int, *, size: tuple[int, ...] = (12, 16), num_classes: int = 3) -> Targets:
    return Targets(
        classes=torch.randint(0, num_classes, (num,)), masks=torch.rand(num, *size) > 0.5
    )


def pairs(found: Match) -> list[tuple[int, int]]:
    return sorted(zip(found.objects.tolist(), found.queries.tolist(), strict=True))


def literal_cost(class_logits: Tensor, mask: Tensor, target: Targets, which: int) -> Tensor:
    """Of one query and one object, at the 64 points."""
    points = random_points(64, generator=seeded(), device=torch.device("cpu"))
    x = sample_points(mask[None], points)[0]
    t = sample_points(target.masks[which][None], points)[0]
    bce = F.binary_cross_entropy_with_logits(x, t)
    p = x.sigmoid()
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    return 5 * bce + 5 * dice - 2 * class_logits.softmax(0)[target.classes[which]]


@pytest.mark.parametrize(("num_queries", "num_objects"), [(5, 3), (4, 4), (3, 1), (2, 4)])
def test_equals_brute_force_over_all_assignments(num_queries: int, num_objects: int) -> None:
    class_logits, masks = torch.randn(1, num_queries, 4), torch.randn(1, num_queries, 6, 8) * 3
    target = objects(num_objects)
    cost = torch.stack(
        [
            torch.stack([literal_cost(c, m, target, g) for g in range(num_objects)])
            for c, m in zip(class_logits[0], masks[0], strict=True)
        ]
    )
    wide = cost if num_queries >= num_objects else cost.T
    best = min(
        permutations(range(len(wide)), wide.shape[1]),
        key=lambda rows: float(sum(wide[row, column] for column, row in enumerate(rows))),
    )
    expected = [(g, q) for g, q in enumerate(best)]
    if num_queries < num_objects:
        expected = [(g, q) for q, g in enumerate(best)]

    (found,) = match(class_logits, masks, [target], costs=COSTS, generator=seeded())
    assert pairs(found) == sorted(expected)


def test_costs_are_the_published_ones() -> None:
    class_logits, masks, target = torch.randn(4, 4), torch.randn(4, 6, 8), objects(3)
    points = random_points(64, generator=seeded(), device=torch.device("cpu"))
    cost = matching_costs(class_logits, masks, target, points=points, costs=COSTS)
    for q in range(4):
        for g in range(3):
            expected = literal_cost(class_logits[q], masks[q], target, g)
            torch.testing.assert_close(cost[q, g], expected, atol=1e-4, rtol=1e-5)


def test_a_query_that_shows_an_object_gets_it() -> None:
    target = objects(3)
    logits = torch.full((1, 5, 12, 16), -10.0)
    logits[0, [4, 0, 2]] = target.masks * 20.0 - 10.0
    (found,) = match(torch.zeros(1, 5, 4), logits, [target], costs=COSTS, generator=seeded())
    assert pairs(found) == [(0, 4), (1, 0), (2, 2)]


def test_class_decides_between_equal_masks() -> None:
    target = Targets(classes=torch.tensor([2]), masks=torch.ones(1, 4, 4))
    class_logits = torch.zeros(1, 3, 4)
    class_logits[0, 1, 2] = 3.0
    (found,) = match(
        class_logits, torch.zeros(1, 3, 4, 4), [target], costs=COSTS, generator=seeded()
    )
    assert pairs(found) == [(0, 1)]


def test_examples_do_not_influence_each_other() -> None:
    class_logits, masks = torch.randn(4, 5, 4), torch.randn(4, 5, 6, 8)
    targets = [objects(2), None, objects(0), objects(4)]
    together = match(class_logits, masks, targets, costs=COSTS, generator=seeded())
    assert [len(found.queries) for found in together] == [2, 0, 0, 4]
    for place in range(4):
        (alone,) = match(
            class_logits[place : place + 1],
            masks[place : place + 1],
            targets[place : place + 1],
            costs=COSTS,
            generator=seeded(),
        )
        assert pairs(alone) == pairs(together[place])


def test_a_clip_is_matched_by_the_frames_with_ground_truth() -> None:
    truth = torch.rand(2, 3, 12, 16) > 0.5  # [G, T, H, W]
    counted = torch.tensor([True, False, True]).view(3, 1, 1).expand(3, 12, 16)
    target = Targets(classes=torch.zeros(2, dtype=torch.long), masks=truth, counted=counted)
    logits = torch.where(truth[[1, 0]], 2.0, -2.0)
    logits[:, 1] = torch.where(truth[:, 1], 90.0, -90.0)  # the other way round, and louder
    (found,) = match(
        torch.zeros(1, 2, 2), logits.unsqueeze(0), [target], costs=COSTS, generator=seeded()
    )
    assert pairs(found) == [(0, 1), (1, 0)]
    target.counted = None
    (everywhere,) = match(
        torch.zeros(1, 2, 2), logits.unsqueeze(0), [target], costs=COSTS, generator=seeded()
    )
    assert pairs(everywhere) == [(0, 0), (1, 1)]


def test_predictions_that_are_not_finite_are_refused() -> None:
    masks = torch.full((1, 2, 4, 4), torch.nan)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        match(torch.zeros(1, 2, 4), masks, [objects(1)], costs=COSTS, generator=seeded())


def test_one_object_for_each_class_that_is_seen() -> None:
    masks = torch.tensor([[[0, 3, 3], [1, 255, 0]], [[0, 0, 0], [0, 0, 0]], [[2, 2, 2], [2, 2, 2]]])
    first, empty, missing = class_targets(masks.to(torch.uint8), torch.tensor([True, True, False]))
    assert missing is None
    assert first is not None
    assert first.classes.tolist() == [0, 2]
    assert first.masks.int().tolist() == [[[0, 0, 0], [1, 0, 0]], [[0, 1, 1], [0, 0, 0]]]
    assert first.counted is not None
    assert first.counted.int().tolist() == [[1, 1, 1], [1, 0, 1]]
    assert empty is not None
    assert empty.masks.shape == (0, 2, 3)
    assert empty.counted is None


def test_a_clip_has_one_object_for_each_class_of_all_frames() -> None:
    masks = torch.tensor([[[[0, 1]], [[2, 1]], [[1, 0]]]], dtype=torch.uint8)  # [1, 3, 1, 2]
    (target,) = class_targets(masks, torch.tensor([[True, False, True]]))
    assert target is not None
    assert target.classes.tolist() == [0], "class 2 is seen only where there is no ground truth"
    assert target.masks.int().tolist() == [[[[0, 1]], [[0, 0]], [[1, 0]]]]
    assert target.counted is not None
    assert target.counted[:, 0, 0].tolist() == [True, False, True]
