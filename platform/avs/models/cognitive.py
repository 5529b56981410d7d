"""Cognitive consensus of C3N (Shi et al., TMM 2024): the class on which sight and sound agree
(C3IM), and attention to where that class is seen (CCAM).

Both are computed in float32 also under autocast: the scores are powers of softmax outputs and
their maximum picks one of 1000 classes. The published code builds p_i S_ij q_j for each frame and
gets the attention from a second full backward, hooks and numpy. Here the maximum over sounds is
taken frame by frame (the factor p_i is positive, so it comes after), and one ``autograd.grad``
goes to the four maps only: no gradient of a parameter is computed or accumulated, no hook fires.

Shapes: N = clips x frames, C channels, h x w pixels, 1000 ImageNet classes, 527 AudioSet classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["attend", "class_attention", "consensus_scores"]


@torch.no_grad()
def consensus_scores(
    visual_logits: Tensor, audio_logits: Tensor, similarity: Tensor, *, alpha: float
) -> Tensor:
    """How far sight and sound agree on each image class: max_j p_i S_ij q_j, [N, 1000] float32.

    visual_logits: [N, 1000]; audio_logits: [N, 527], -inf for classes that the audio network
    lacks: they never take part. similarity: [1000, 527], may be negative.
    p = softmax(visual)^alpha, q = softmax(audio)^alpha. No gradient.
    """
    with torch.autocast(visual_logits.device.type, enabled=False):
        log_q_N527 = alpha * F.log_softmax(audio_logits.float(), dim=1)
        # where q is 0 for want of a class, 0 would beat a negative similarity
        lacking_N527 = torch.zeros_like(log_q_N527).masked_fill(log_q_N527.isneginf(), -torch.inf)
        best_N1000 = torch.stack(
            [
                torch.addcmul(lacking_527, similarity, q_527).amax(dim=1)
                for lacking_527, q_527 in zip(lacking_N527, log_q_N527.exp(), strict=True)
            ]
        )
        p_N1000 = (alpha * F.log_softmax(visual_logits.float(), dim=1)).exp()
        return p_N1000 * best_N1000


def class_attention(
    visual_logits: Tensor,
    target: Tensor,
    blocks: Sequence[Tensor],
    *,
    channels_last: bool,
    retain_graph: bool,
) -> list[Tensor]:
    """Attention to channels: the spatial mean of d logit of the target / d map, unit length.

    visual_logits: [N, 1000] with a graph back to ``blocks``; target: [N] class indices.
    blocks: per stage [N, C, h, w], or [N, h, w, C] if ``channels_last``.
    retain_graph: whether somebody will go backward through the same graph again.
    Returns per stage [N, C] float32 without gradient.
    """
    picked = F.one_hot(target, visual_logits.shape[1]).to(visual_logits.dtype)
    with torch.inference_mode(False), torch.autocast(visual_logits.device.type, enabled=False):
        gradients = torch.autograd.grad(
            visual_logits, list(blocks), grad_outputs=picked, retain_graph=retain_graph
        )
        spatial = (1, 2) if channels_last else (2, 3)
        means = [g.mean(dim=spatial, dtype=torch.float32) for g in gradients]
        return [F.normalize(mean_NC, dim=1) for mean_NC in means]


def attend(map_NChw: Tensor, weight_NC: Tensor) -> Tensor:
    """Scale channels by the sigmoid of ``weight_NC``, then pixels by that of the channel mean."""
    gate_NC11 = weight_NC.sigmoid().to(map_NChw.dtype)[:, :, None, None]
    map_NChw = map_NChw * gate_NC11
    return map_NChw * map_NChw.mean(dim=1, keepdim=True).sigmoid()
