"""Which query stands for which object: the cheapest one-to-one assignment (DETR, Carion et al.,
ECCV 2020), with Mask2Former's costs on sampled points.

Objects belong to a frame or to a whole clip; a clip's query is matched by its masks of all frames
that have ground truth. What has no ground truth, whole examples or single pixels, neither costs nor
teaches anything. The assignment itself is scipy's, on the CPU: one transfer a call.

Shapes: N examples (frames or clips), Q queries, G objects, K classes, T frames, h x w and H x W
pixels, P points (of all frames of a clip).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.models.point_sampling import random_points, sample_points
from avs.schema import IGNORE_INDEX

__all__ = ["Match", "MatchingCosts", "Targets", "class_targets", "match", "matching_costs"]


@dataclass(kw_only=True, slots=True)
class Targets:
    """The objects of one example.

    classes: [G] long, 0 .. K - 1. masks: [G, H, W] of a frame or [G, T, H, W] of a clip, bool or
    0/1. counted: bool [H, W] or [T, H, W], False = no ground truth for this pixel; None = all.
    """

    classes: Tensor
    masks: Tensor
    counted: Tensor | None = None


@dataclass(kw_only=True, slots=True)
class MatchingCosts:
    """Weights of the three costs, and how many points the mask costs are computed on."""

    class_weight: float = 2.0
    bce_weight: float = 5.0
    dice_weight: float = 5.0
    num_points: int = 12_544


@dataclass(kw_only=True, slots=True)
class Match:
    """queries, objects: [min(Q, G)] long each; query queries[i] stands for object objects[i]."""

    queries: Tensor
    objects: Tensor


@torch.no_grad()
def match(
    class_logits: Tensor,
    masks: Tensor,
    targets: Sequence[Targets | None],
    *,
    costs: MatchingCosts,
    generator: torch.Generator,
) -> list[Match]:
    """Assign queries to objects, one :class:`Match` an example.

    class_logits: [N, Q, K + 1]; masks: logits [N, Q, h, w] or, of clips, [N, Q, T, h, w].
    targets: one an example; None or no objects gives an empty match. With more objects than
    queries, some objects go without one.
    generator: of the points; one call draws the same amount whatever the batch holds.
    Raises FloatingPointError for predictions that are not finite.
    """
    points = random_points(costs.num_points, generator=generator, device=masks.device)
    tables = {
        place: matching_costs(class_logits[place], masks[place], one, points=points, costs=costs)
        for place, one in enumerate(targets)
        if one is not None and len(one.classes)
    }
    nothing = torch.zeros(0, dtype=torch.long, device=masks.device)
    matches = [Match(queries=nothing, objects=nothing) for _ in targets]
    for place, table in zip(tables, _to_cpu(list(tables.values())), strict=True):
        matches[place] = _assign(table, device=masks.device)
    return matches


def matching_costs(
    class_logits_QK: Tensor, masks: Tensor, target: Targets, *, points: Tensor, costs: MatchingCosts
) -> Tensor:
    """Cost of each query for each object of one example: float32 [Q, G].

    masks: logits [Q, h, w] or [Q, T, h, w]; points: [P, 2], the same in each frame.
    """
    with torch.autocast(masks.device.type, enabled=False):
        logits_QP = at_points(masks, points)
        truth_GP = at_points(target.masks, points)
        weight_P = torch.ones_like(truth_GP[0])
        if target.counted is not None:
            weight_P = at_points(target.counted.unsqueeze(0), points)[0]
        counted_GP = truth_GP * weight_P
        # log(1 + e^x) - x t is binary cross entropy
        bce_QG = (F.softplus(logits_QP) @ weight_P).unsqueeze(1) - logits_QP @ counted_GP.T
        inside_QP = logits_QP.sigmoid()
        sizes_QG = (inside_QP @ weight_P).unsqueeze(1) + counted_GP.sum(dim=1)
        dice_QG = 1.0 - (2.0 * inside_QP @ counted_GP.T + 1.0) / (sizes_QG + 1.0)
        class_QG = -class_logits_QK.float().softmax(dim=1)[:, target.classes]
        return (
            costs.class_weight * class_QG
            + costs.bce_weight * bce_QG / weight_P.sum().clamp(min=1.0)
            + costs.dice_weight * dice_QG
        )


def at_points(masks: Tensor, points: Tensor) -> Tensor:
    """[X, h, w] or [X, T, h, w] at the same points of each frame: float32 [X, P] or [X, T * P]."""
    values_XP = sample_points(masks.flatten(0, -3), points)
    return values_XP.reshape(len(masks), -1)


def class_targets(masks: Tensor, valid: Tensor) -> list[Targets | None]:
    """One object for each class that is seen: class c > 0 of the masks is class c - 1 here.

    masks: [N, H, W] of frames or [N, T, H, W] of clips, class index, 0 = background, 255 = ignored.
    valid: bool [N] or [N, T], False = no ground truth; an example without any gives None.
    """
    return [_objects(m, v) if bool(v.any()) else None for m, v in zip(masks, valid, strict=True)]


def _objects(masks: Tensor, valid: Tensor) -> Targets:
    counted = (masks != IGNORE_INDEX) & valid[..., None, None]
    classes_G = torch.unique(masks[counted]).long()
    classes_G = classes_G[classes_G > 0]
    shape = (-1, *[1] * masks.ndim)
    return Targets(
        classes=classes_G - 1,
        masks=(masks == classes_G.view(shape)) & valid[..., None, None],
        counted=None if bool(counted.all()) else counted,
    )


def _to_cpu(tables: list[Tensor]) -> Iterator[np.ndarray]:
    """The tables as numpy arrays, in one transfer."""
    if not tables:
        return
    values = torch.cat([table.flatten() for table in tables]).cpu().numpy()
    if not np.isfinite(values).all():
        raise FloatingPointError("predictions are not finite: lower train.learning_rate")
    start = 0
    for table in tables:
        yield values[start : start + table.numel()].reshape(table.shape)
        start += table.numel()


def _assign(table: np.ndarray, *, device: torch.device) -> Match:
    from scipy.optimize import linear_sum_assignment  # two seconds that only matching needs

    queries, objects = linear_sum_assignment(table)
    return Match(
        queries=torch.as_tensor(queries, device=device),
        objects=torch.as_tensor(objects, device=device),
    )
