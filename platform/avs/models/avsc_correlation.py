"""Audio-visual semantic correlation of AVSC: the sound's categories choose among the objects seen.

Published (as a reader's note gives it): queries that say "no object" are dropped, of each category
only the most confident query is kept, and the sounding map is the sum over the kept queries n of
s_a[c_n] m_n. Reconstructed: the clamp of that sum, the noisy-or as another way to join, the classes
with a background of 1 - map. Maps are probabilities and come as logits, so that they are
thresholded and trained like any other model's. Trade-off: a tiny floor keeps those finite, so a
pixel far from every object says 1e-4 and not 0; where a sum exceeds 1 its clamp passes no gradient.

Shapes: N frames, Q queries, K categories, h x w and H x W pixels.
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.models.masked_decoder import SetPrediction

__all__ = ["Aggregate", "kept_queries", "sounding_classes", "sounding_logits", "sounding_map"]

FLOOR = 1e-4


class Aggregate(enum.Enum):
    """How objects join in one map: their sum, at most 1, or 1 - prod(1 - s_a m)."""

    SUM = "sum"
    NOISY_OR = "noisy_or"


def kept_queries(class_logits_NQK: Tensor) -> tuple[Tensor, Tensor]:
    """Of each category the query that is surest of it, long, and how sure, 0 without one: [N, K].

    class_logits_NQK: [N, Q, K + 1], "no object" last. A query stands for its likeliest class alone.
    """
    prob_NQK = class_logits_NQK.detach().float().softmax(dim=2)
    likeliest_NQ1 = prob_NQK.argmax(dim=2, keepdim=True)
    own_NQK = torch.zeros_like(prob_NQK).scatter(2, likeliest_NQ1, 1.0)
    sure_NK, query_NK = (prob_NQK * own_NQK)[..., :-1].max(dim=1)
    return query_NK, sure_NK


def sounding_classes(
    prediction: SetPrediction, sound_NK: Tensor, *, size: tuple[int, int]
) -> Tensor:
    """s_a[c] m of the kept query of each category, 0 without one: probabilities [N, K, H, W].

    sound_NK: how much the sound is each category, 0..1. size: (H, W), to which masks are resized as
    logits, because an edge then lies between two coarse pixels and stays sharp.
    """
    assert prediction.class_logits is not None, "the correlation needs classes"
    assert prediction.masks is not None, "the correlation needs masks"
    query_NK, sure_NK = kept_queries(prediction.class_logits)
    frames_N1 = torch.arange(len(query_NK), device=query_NK.device).unsqueeze(1)
    masks_NKhw = prediction.masks[frames_N1, query_NK].float()
    masks_NKHW = F.interpolate(masks_NKhw, size=size, mode="bilinear", align_corners=False)
    return masks_NKHW.sigmoid() * (sound_NK.float() * (sure_NK > 0.0))[..., None, None]


def sounding_map(classes_NKHW: Tensor, *, aggregate: Aggregate) -> Tensor:
    """All categories in one map: [N, 1, H, W], 0..1."""
    if aggregate is Aggregate.NOISY_OR:
        return 1.0 - (1.0 - classes_NKHW).prod(dim=1, keepdim=True)
    return classes_NKHW.sum(dim=1, keepdim=True).clamp(max=1.0)


def sounding_logits(classes_NKHW: Tensor, *, aggregate: Aggregate, semantic: bool) -> Tensor:
    """Logits of :func:`sounding_classes`: float32.

    Binary: [N, 1, H, W], the map is their sigmoid. Semantic: [N, K + 1, H, W], the background
    1 - map first; they are logarithms, and a pixel is of the class with the largest.
    """
    map_N1HW = sounding_map(classes_NKHW, aggregate=aggregate)
    wanted = torch.cat((1.0 - map_N1HW, classes_NKHW), dim=1) if semantic else map_N1HW
    inside = FLOOR + (1.0 - 2.0 * FLOOR) * wanted
    return inside.log() if semantic else inside.logit()
