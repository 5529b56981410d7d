"""Losses of a set prediction (MaskFormer, Cheng et al., NeurIPS 2021; Mask2Former, CVPR 2022):
classes with "no object", binary cross entropy and Dice of the matched masks, after every layer.

Sums are divided by counts over the ranks of a distributed step, so one global batch gives one loss
however it is spread: the mean over ranks (which DDP takes of the gradients) is the global mean.
Mask2Former rounds the number of objects *of a rank* up to one, which depends on the spread; here
the global number is. Mask losses look at sampled points only. Trade-off: every rank must call this
in every step, also without an object; the counts of all layers travel in one message.

Shapes: N examples (frames or clips), Q queries, G objects, K classes, X matched masks, T frames,
h x w and H x W pixels, P points, L predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.models.masked_decoder import SetPrediction
from avs.models.matching import Match, MatchingCosts, Targets, match
from avs.models.micro_batches import own_count, whole_step
from avs.models.point_sampling import sample_points, uncertain_points

__all__ = ["SetLossConfig", "SetLosses", "count_per_rank", "set_losses"]

# Factor of the "no object" loss of each query, [N, Q]; what it says of matched queries is ignored.
UnmatchedWeight = Callable[[SetPrediction, Sequence[Match]], Tensor]


@dataclass(kw_only=True, slots=True)
class SetLossConfig:
    """Weights and sampling, as published.

    no_object_weight: of a query without an object in the class loss, beside 1 for the others.
    num_points: where mask losses are computed; oversample_ratio, importance_ratio: see
    :func:`avs.models.point_sampling.uncertain_points`.
    """

    class_weight: float = 2.0
    bce_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    num_points: int = 12_544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    matching: MatchingCosts = field(default_factory=MatchingCosts)

    def __post_init__(self) -> None:
        for key in ("class_weight", "bce_weight", "dice_weight", "no_object_weight"):
            if not getattr(self, key) >= 0.0:
                raise ConfigError(f"{key}={getattr(self, key)}: 0 or more")
        if self.num_points < 1:
            raise ConfigError(f"num_points={self.num_points}: at least 1")
        if not self.oversample_ratio >= 1.0:
            raise ConfigError(f"oversample_ratio={self.oversample_ratio}: 1 or more")
        if not 0.0 <= self.importance_ratio <= 1.0:
            raise ConfigError(f"importance_ratio={self.importance_ratio}: between 0 and 1")


@dataclass(kw_only=True, slots=True)
class SetLosses:
    """loss: weighted sum over the layers, with gradient. parts: "class", "mask_bce" and
    "mask_dice" of the last layer, unweighted and detached. matches: of the last layer."""

    loss: Tensor
    parts: dict[str, Tensor]
    matches: list[Match]


def set_losses(
    predictions: Sequence[SetPrediction],
    targets: Sequence[Targets | None],
    *,
    config: SetLossConfig,
    generator: torch.Generator,
    unmatched_weight: UnmatchedWeight | None = None,
) -> SetLosses:
    """Match every layer's prediction and sum its losses.

    predictions: with class logits and masks, as :class:`MaskedDecoder` gives them.
    targets: one an example; None = no ground truth, teaches nothing, also not "no
    object"; no objects (G = 0) = every query is "no object".
    generator: of the points; one seed on every rank gives one loss on any number of ranks.
    unmatched_weight: factor of the "no object" loss of each query.
    """
    sums, weights, matches = [], [], []
    for prediction in predictions:
        assert prediction.class_logits is not None, "a set loss needs a class head"
        assert prediction.masks is not None, "a set loss needs masks"
        matches = match(
            prediction.class_logits,
            prediction.masks,
            targets,
            costs=config.matching,
            generator=generator,
        )
        class_sum, weight = _class_loss(prediction, targets, matches, config, unmatched_weight)
        bce_sum, dice_sum = _mask_losses(prediction.masks, targets, matches, config, generator)
        sums.append(torch.stack((class_sum, bce_sum, dice_sum)))
        weights.append(weight)
    num_masks = torch.full_like(weights[0], float(sum(len(m.queries) for m in matches)))
    count_L1 = count_per_rank(torch.stack([*weights, num_masks]))
    loss_L3 = torch.stack(sums) / torch.stack(
        (count_L1[:-1], *[count_L1[-1].expand(len(sums))] * 2), dim=1
    )
    factor_3 = loss_L3.new_tensor([config.class_weight, config.bce_weight, config.dice_weight])
    parts = dict(zip(("class", "mask_bce", "mask_dice"), loss_L3[-1].detach(), strict=True))
    return SetLosses(loss=(loss_L3 * factor_3).sum(), parts=parts, matches=matches)


def count_per_rank(counts: Tensor) -> Tensor:
    """Sum over the ranks, at least 1 where it is 0, divided by the number of ranks.

    A rank's sum divided by this is a loss whose mean over the ranks is the global mean. Every rank
    must call it; alone, it returns the counts themselves. Of a step in several parts, the step's
    count (see :mod:`avs.models.micro_batches`).
    """
    num_ranks = 1
    counts = own_count(counts.detach().clone())
    if dist.is_available() and dist.is_initialized():
        num_ranks = dist.get_world_size()
        dist.all_reduce(counts)
    return whole_step(torch.where(counts > 0.0, counts, torch.ones_like(counts)) / num_ranks)


def _class_loss(
    prediction: SetPrediction,
    targets: Sequence[Targets | None],
    matches: Sequence[Match],
    config: SetLossConfig,
    unmatched_weight: UnmatchedWeight | None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross entropies of all queries, and the sum of their weights."""
    assert prediction.class_logits is not None
    logits_NQK = prediction.class_logits.float()
    truth_NQ = torch.full_like(logits_NQK[..., 0], logits_NQK.shape[2] - 1, dtype=torch.long)
    weight_NQ = torch.full_like(logits_NQK[..., 0], config.no_object_weight)
    if unmatched_weight is not None:
        weight_NQ = weight_NQ * unmatched_weight(prediction, matches).detach().to(weight_NQ)
    for place, (target, found) in enumerate(zip(targets, matches, strict=True)):
        if target is None:
            weight_NQ[place] = 0.0
        else:
            truth_NQ[place, found.queries] = target.classes[found.objects]
            weight_NQ[place, found.queries] = 1.0
    entropy_NQ = F.cross_entropy(logits_NQK.transpose(1, 2), truth_NQ, reduction="none")
    return (entropy_NQ * weight_NQ).sum(), weight_NQ.sum()


def _mask_losses(
    masks: Tensor,
    targets: Sequence[Targets | None],
    matches: Sequence[Match],
    config: SetLossConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Sums over the matched masks of their mean binary cross entropy and their Dice loss.

    Points are chosen in each frame by itself; Dice of a clip's mask is over all of its frames.
    """
    matched, truth, counted = _matched(masks, targets, matches)
    frames_Xhw = matched.flatten(0, -3)
    points_XP2 = uncertain_points(
        frames_Xhw,
        num_points=config.num_points,
        oversample_ratio=config.oversample_ratio,
        importance_ratio=config.importance_ratio,
        generator=generator,
    )
    num_values = len(frames_Xhw) // max(len(matched), 1) * config.num_points
    logits_XP, truth_XP, weight_XP = (
        sample_points(values.flatten(0, -3), points_XP2).view(len(matched), num_values)
        for values in (matched, truth, counted)
    )
    entropy_XP = F.binary_cross_entropy_with_logits(logits_XP, truth_XP, reduction="none")
    bce_X = (entropy_XP * weight_XP).sum(dim=1) / weight_XP.sum(dim=1).clamp(min=1.0)
    inside_XP, truth_XP = logits_XP.sigmoid() * weight_XP, truth_XP * weight_XP
    overlap_X = (inside_XP * truth_XP).sum(dim=1)
    dice_X = 1.0 - (2.0 * overlap_X + 1.0) / (inside_XP.sum(dim=1) + truth_XP.sum(dim=1) + 1.0)
    return bce_X.sum(), dice_X.sum()


def _matched(
    masks: Tensor, targets: Sequence[Targets | None], matches: Sequence[Match]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, truth and which pixels count, of the matched masks: [X, ...] each."""
    queries_X = torch.cat([found.queries for found in matches])
    examples_X = torch.cat(
        [torch.full_like(found.queries, place) for place, found in enumerate(matches)]
    )
    pairs = [
        (target, found)
        for target, found in zip(targets, matches, strict=True)
        if target is not None and len(found.queries)
    ]
    matched = masks[examples_X, queries_X]
    if not pairs:
        return matched, torch.zeros_like(matched), torch.ones_like(matched)
    truth = torch.cat([target.masks[found.objects] for target, found in pairs])
    counted = torch.cat([_counted(target)[: len(found.queries)] for target, found in pairs])
    return matched, truth, counted


def _counted(target: Targets) -> Tensor:
    """Which pixels count, for each of the objects."""
    if target.counted is None:
        return torch.ones_like(target.masks, dtype=torch.bool)
    return target.counted.expand_as(target.masks)
