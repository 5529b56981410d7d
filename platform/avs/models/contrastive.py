"""Bi-modal contrastive learning of CCFormer (arXiv 2510.10051): sound and picture in one space.

Published: both modalities are aligned in one feature space. Reconstructed: the embeddings (a
perceptron on the sound, one on picture features pooled by the mask), a learnable temperature with
the logit scale capped at 100, the same frame as positive, frames of *other* videos as negatives,
symmetric InfoNCE over the frames of all ranks. Ours: picture features are pooled before any sound
is mixed in, and the sound is taken before it has met the picture: of merged ones, each would
recognise itself in the other and nothing would have to be learnt. The mask is the predicted one,
since forward knows no other, and is only told where to look by the ground truth, never by this
loss. Trade-off: embeddings of all ranks are exchanged in every step, forward and backward.

Shapes: B clips, T frames, N = B*T anchors of a rank, M anchors of all ranks, C channels,
D embedding width, h x w pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.models.micro_batches import own_count
from avs.models.set_losses import count_per_rank

__all__ = ["MAX_LOGIT_SCALE", "ContrastiveHeads", "contrastive_loss", "num_ranks"]

MAX_LOGIT_SCALE = 100.0
# A mask that covers less of the picture pools to hardly anything, which is what silence shows.
SMALLEST_SHARE = 1e-3


class ContrastiveHeads(nn.Module):
    """temperature: where the learnable one starts; the logit scale is its inverse."""

    def __init__(self, width: int, *, temperature: float) -> None:
        super().__init__()
        self.sound, self.picture = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(
        self, audio_BTC: Tensor, maps: Sequence[Tensor], logits_NKHW: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of length 1, of the sound and the picture [B, T, D], and the scale [].

        audio_BTC, maps ([N, C, h, w] each): before they have met. logits_NKHW: the masks. All
        that is returned is float32, also under autocast.
        """
        pooled_NC = pooled_by_mask(maps, foreground(logits_NKHW.detach()))
        sound_BTD = F.normalize(self.sound(audio_BTC).float(), dim=2)
        picture_BTD = self.picture(pooled_NC).float().reshape(sound_BTD.shape)
        return sound_BTD, F.normalize(picture_BTD, dim=2), self.logit_scale()

    def logit_scale(self) -> Tensor:
        """exp of the parameter, capped; at the cap it can still learn to go down."""
        scale = self.log_scale.float().exp()
        return scale - (scale - MAX_LOGIT_SCALE).clamp(min=0.0).detach()


def foreground(logits_NKHW: Tensor) -> Tensor:
    """How much each pixel sounds, 0..1: float32 [N, 1, H, W]. K = 1, or class 0 = background."""
    logits_NKHW = logits_NKHW.float()
    if logits_NKHW.shape[1] == 1:
        return logits_NKHW.sigmoid()
    return 1.0 - logits_NKHW.softmax(dim=1)[:, :1]


def pooled_by_mask(maps: Sequence[Tensor], mask_N1HW: Tensor) -> Tensor:
    """Mean of the pixels inside the mask, then over the maps: [N, C]."""
    pooled = []
    for map_NChw in maps:
        size = (map_NChw.shape[-2], map_NChw.shape[-1])
        share_N1hw = F.adaptive_avg_pool2d(mask_N1HW, size)
        inside_NC = (map_NChw.float() * share_N1hw).mean(dim=(2, 3))
        pooled.append(inside_NC / (share_N1hw.mean(dim=(2, 3)) + SMALLEST_SHARE))
    return torch.stack(pooled).mean(dim=0)


def contrastive_loss(
    embeddings: tuple[Tensor, Tensor, Tensor],
    *,
    videos: Tensor,
    frame_valid: Tensor | None,
    off_screen: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE, mean over the real frames of all ranks (see :func:`count_per_rank`).

    embeddings: as :class:`ContrastiveHeads` makes them, of the same shape on every rank.
    videos: int64 [B], equal for clips of one source video, whose frames are not compared.
    frame_valid: bool [B, T]; padding is neither anchor nor negative. None = all frames are real.
    off_screen: bool [B]; nor are clips whose sound is not that of the picture. None = there are
    none. Nor are those of a part of a step that this rank does not have. A frame without any
    negative adds 0. Every rank must call this in every step.
    """
    sound_BTD, picture_BTD, scale = embeddings
    if frame_valid is None:
        frame_valid = torch.ones(sound_BTD.shape[:2], dtype=torch.bool, device=sound_BTD.device)
    video_N = videos.unsqueeze(1).expand_as(frame_valid).flatten()
    if off_screen is not None:
        frame_valid = frame_valid & ~off_screen.unsqueeze(1)
    valid_N = own_count(frame_valid.flatten())
    with torch.autocast(sound_BTD.device.type, enabled=False):
        sound_ND, picture_ND = sound_BTD.float().flatten(0, 1), picture_BTD.float().flatten(0, 1)
        compared_NM = _compared(video_N, valid_N)
        loss_N = _info_nce(scale * sound_ND @ _of_all_ranks(picture_ND).T, compared_NM)
        loss_N = loss_N + _info_nce(scale * picture_ND @ _of_all_ranks(sound_ND).T, compared_NM)
        return (loss_N * valid_N).sum() / (2.0 * count_per_rank(valid_N.sum().float()))


def num_ranks() -> int:
    """How many processes share a step."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _compared(video_N: Tensor, valid_N: Tensor) -> Tensor:
    """Which frames of all ranks each anchor is compared with, itself included: bool [N, M]."""
    video_M, valid_M = _of_all_ranks(video_N), _of_all_ranks(valid_N.long()) > 0
    return ((video_N.unsqueeze(1) != video_M) & valid_M) | _own_place(len(video_N), video_M)


def _own_place(num_anchors: int, all_M: Tensor) -> Tensor:
    """Where each anchor of this rank stands among those of all: bool [N, M]."""
    first = dist.get_rank() * num_anchors if num_ranks() > 1 else 0
    place_M = torch.arange(len(all_M), device=all_M.device)
    return place_M[first : first + num_anchors].unsqueeze(1) == place_M


def _info_nce(logits_NM: Tensor, compared_NM: Tensor) -> Tensor:
    """-log of the anchor's own share among what it is compared with: [N]."""
    own_NM = _own_place(len(logits_NM), logits_NM[0])
    compared = logits_NM.masked_fill(~compared_NM, -math.inf).logsumexp(dim=1)
    return compared - logits_NM[own_NM]


def _of_all_ranks(x: Tensor) -> Tensor:
    """The ranks' tensors one after the other, with gradient: [N, ...] -> [M, ...]."""
    if num_ranks() == 1:
        return x
    gathered: Tensor = _AllGather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


class _AllGather(torch.autograd.Function):
    """Every rank's loss looks at every rank's embeddings, so gradients come back from all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.num = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient_M = gradients[0].clone()
        dist.all_reduce(gradient_M)
        return gradient_M[dist.get_rank() * ctx.num :][: ctx.num]
