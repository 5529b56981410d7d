"""Losses of full-size and auxiliary masks together: what CCFormer's objective is made of, beside
its contrastive part.

Cross entropy and Dice of the prediction and, as one more batch, of every supervised layer, whose
smaller logits meet the ground truth at their own size (the pixel under a centre; resizing the
logits instead would cost as much as the full prediction). Dice over classes is ours: mean over the
classes that a frame's ground truth holds, background included; cross entropy alone teaches absence.

Shapes: B clips, T frames, N = B*T, K classes, H x W and h x w pixels, P = H*W.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.models.pixel_losses import (
    IGNORE_INDEX,
    LossConfig,
    LossKind,
    bce_masked,
    cross_entropy_masked,
    soft_dice,
)
from avs.models.set_losses import count_per_rank

__all__ = ["aux_losses", "dense_losses", "semantic_dice"]


def dense_losses(
    logits: Tensor, masks: Tensor, mask_valid: Tensor, *, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """Cross entropy (binary or of classes) and Dice, means over frames with ground truth.

    logits: [B, T, K, H, W]; masks: [B, T, H, W] class index, 0 = background, 255 = ignored, if
    semantic; mask_valid: bool [B, T]. config: kind and, if binary, the form of Dice.
    Both float32, unweighted, with gradient, and over the frames of all ranks.
    """
    logits = logits.float()
    if config.kind is LossKind.BINARY:
        dice = soft_dice(logits, masks, mask_valid, form=config.dice_form)
        return bce_masked(logits, masks, mask_valid), dice
    entropy = cross_entropy_masked(logits, masks, mask_valid)
    return entropy, semantic_dice(logits, masks, mask_valid)


def aux_losses(
    layers: Sequence[Tensor], masks: Tensor, mask_valid: Tensor, *, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """:func:`dense_losses` summed over layers. layers: [B, T, K, h, w] each, one or more."""
    size = (layers[0].shape[-2], layers[0].shape[-1])
    small_BThw = F.interpolate(masks, size=size, mode="nearest-exact")
    entropy, dice = dense_losses(
        torch.cat(list(layers)),
        small_BThw.repeat(len(layers), 1, 1, 1),
        mask_valid.repeat(len(layers), 1),
        config=config,
    )
    return len(layers) * entropy, len(layers) * dice


def semantic_dice(logits: Tensor, masks: Tensor, mask_valid: Tensor) -> Tensor:
    """Soft Dice per class that a frame holds, mean over these, then over frames; shapes as above.

    A frame that is ignored as a whole adds 0.
    """
    truth_NP = masks.flatten(0, 1).flatten(1).long()
    counted_NP = (truth_NP != IGNORE_INDEX).to(logits.dtype)
    truth_NP = truth_NP.masked_fill(truth_NP == IGNORE_INDEX, 0)
    prob_NKP = logits.flatten(0, 1).flatten(2).softmax(dim=1) * counted_NP.unsqueeze(1)
    right_NP = prob_NKP.gather(1, truth_NP.unsqueeze(1)).squeeze(1)
    predicted_NK = prob_NKP.sum(dim=2)
    overlap_NK = torch.zeros_like(predicted_NK).scatter_add(1, truth_NP, right_NP)
    true_NK = torch.zeros_like(predicted_NK).scatter_add(1, truth_NP, counted_NP)
    dice_NK = 1.0 - (2.0 * overlap_NK + 1.0) / (predicted_NK + true_NK + 1.0)
    there_NK = (true_NK > 0.0).to(logits.dtype)
    dice_N = (dice_NK * there_NK).sum(dim=1) / there_NK.sum(dim=1).clamp(min=1.0)
    valid_N = mask_valid.flatten().to(logits.dtype)
    return (dice_N * valid_N).sum() / count_per_rank(valid_N.sum())
