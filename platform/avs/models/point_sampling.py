"""Masks at random points instead of at every pixel (PointRend, Kirillov et al., CVPR 2020).

The random numbers of one call are the same for every clip, object and query, and how many are drawn
does not depend on the batch: ranks that start from one seed then see the same points whoever has
which clips. Trade-off: masks of a step share their candidates, which averages out less noise than
points of their own would (the uncertain ones are still picked for each mask by itself).

Shapes: X masks, h x w pixels, P points.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["random_points", "sample_points", "uncertain_points"]


def random_points(num_points: int, *, generator: torch.Generator, device: torch.device) -> Tensor:
    """Uniform (x, y) in 0..1, [P, 2] float32, drawn on the generator's device."""
    points = torch.rand(num_points, 2, generator=generator, device=generator.device)
    return points.to(device)


def sample_points(masks_Xhw: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of masks at points: float32 [X, P].

    points: (x, y) in 0..1 from edge to edge, [P, 2] for all or [X, P, 2]. Between the outermost
    pixel centres and the edge the outermost pixels go on, so a constant mask is constant.
    """
    grid_XP12 = (2.0 * points - 1.0).expand(len(masks_Xhw), -1, -1).unsqueeze(2)
    values_X1P1 = F.grid_sample(
        masks_Xhw.float().unsqueeze(1),
        grid_XP12,
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return values_X1P1.flatten(1)


@torch.no_grad()
def uncertain_points(
    logits_Xhw: Tensor,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_ratio: float,
    generator: torch.Generator,
) -> Tensor:
    """Points where each mask is least sure, and some random ones: [X, P, 2].

    Of ``oversample_ratio * num_points`` random candidates, ``importance_ratio * num_points`` with
    the smallest |logit| are taken for each mask; the rest of the P points is random.
    """
    device = logits_Xhw.device
    num_chosen = round(importance_ratio * num_points)
    num_candidates = max(round(oversample_ratio * num_points), num_chosen)
    candidates_P2 = random_points(num_candidates, generator=generator, device=device)
    random_P2 = random_points(num_points - num_chosen, generator=generator, device=device)
    doubt_XP = -sample_points(logits_Xhw, candidates_P2).abs()
    chosen_XP2 = candidates_P2[doubt_XP.topk(num_chosen, dim=1).indices]
    return torch.cat((chosen_XP2, random_P2.expand(len(logits_Xhw), -1, -1)), dim=1)
