"""Pixel decoder of Mask2Former (Cheng et al., CVPR 2022): a deformable encoder over the coarse
levels and a feature pyramid up to stride 4.

Its parts stand alone, for models that put something of their own between them: projections of the
backbone's maps, the encoder, one top-down step. Maps are resized to the size of the next level, not
by a factor of two, so any image size works; frames never see each other here. Trade-off: reference
points have no valid ratios, since frames of a batch have one size and are never padded in space.

Shapes: N = clips x frames, C channels, h x w pixels, S tokens of all levels one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.models.attention import FeedForwardBlock
from avs.models.deformable_attention import DeformableAttention, pixel_centres
from avs.models.positional_encoding import sine_image

__all__ = [
    "DeformableEncoder",
    "LevelProjections",
    "PixelDecoder",
    "PixelFeatures",
    "TopDownStep",
]

NORM_GROUPS = 32
# A group of one channel at one pixel has no spread: normalised, it says nothing whatever it was.
MIN_GROUP_CHANNELS = 4
NUM_LEVELS = 3  # strides 8, 16, 32 go through the encoder


@dataclass(kw_only=True, slots=True)
class PixelFeatures:
    """levels: [N, C, h, w] at strides 8, 16, 32, finest first. mask_features: [N, D, h, w] at
    stride 4, what mask embeddings are multiplied with."""

    levels: tuple[Tensor, ...]
    mask_features: Tensor


class LevelProjections(nn.Module):
    """A 1x1 convolution and a group norm for each map; extra coarser levels by strided 3x3."""

    def __init__(
        self, in_channels: Sequence[int], width: int, *, num_extra_levels: int = 0
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_normed(nn.Conv2d(c, width, 1)) for c in in_channels)
        sources = [in_channels[-1], *[width] * num_extra_levels][:num_extra_levels]
        self.extra = nn.ModuleList(
            _normed(nn.Conv2d(c, width, 3, stride=2, padding=1)) for c in sources
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [N, C_l, h, w], finest first -> [N, width, h, w] each, extra levels at the end.

        The first extra level is made of the last map itself, the next ones of the one before.
        """
        projected = [project(x) for project, x in zip(self.levels, maps, strict=True)]
        source = maps[-1]
        for shrink in self.extra:
            source = shrink(source)
            projected.append(source)
        return projected


class EncoderLayer(nn.Module):
    """Each token reads from all levels around its own place; feed-forward; post-norm."""

    def __init__(
        self, width: int, *, num_levels: int, num_heads: int, num_points: int, ffn_width: int
    ) -> None:
        super().__init__()
        self.attention = DeformableAttention(
            width, num_levels=num_levels, num_heads=num_heads, num_points=num_points
        )
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForwardBlock(width, hidden_width=ffn_width)

    def forward(
        self,
        x_NSC: Tensor,
        *,
        positions: Tensor,
        reference: Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Same shape in and out."""
        read_NSC = self.attention(x_NSC + positions, reference, x_NSC, sizes=sizes)
        out_NSC: Tensor = self.feed_forward(self.norm(x_NSC + read_NSC))
        return out_NSC


class DeformableEncoder(nn.Module):
    """Maps of one width, any number and sizes -> maps of the same shapes that know each other."""

    def __init__(
        self,
        width: int,
        *,
        num_levels: int = NUM_LEVELS,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_width: int = 1024,
    ) -> None:
        super().__init__()
        self.level_embedding = nn.Parameter(torch.randn(num_levels, width))
        self.layers = nn.ModuleList(
            EncoderLayer(
                width,
                num_levels=num_levels,
                num_heads=num_heads,
                num_points=num_points,
                ffn_width=ffn_width,
            )
            for _ in range(num_layers)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [N, C, h_l, w_l] in the order in which the model was built for; the same back."""
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]
        x_NSC = torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)
        positions_SC = torch.cat(
            [
                sine_image(h, w, channels=x_NSC.shape[2], device=x_NSC.device).flatten(1).T
                + embedding
                for (h, w), embedding in zip(sizes, self.level_embedding, strict=True)
            ]
        )
        reference_1S2 = pixel_centres(sizes, device=x_NSC.device).unsqueeze(0)
        for layer in self.layers:
            x_NSC = layer(x_NSC, positions=positions_SC, reference=reference_1S2, sizes=sizes)
        parts = torch.split(x_NSC.transpose(1, 2), [h * w for h, w in sizes], dim=2)
        return [
            part.reshape(*part.shape[:2], *size) for part, size in zip(parts, sizes, strict=True)
        ]


class TopDownStep(nn.Module):
    """One step up a feature pyramid: a finer map, and the coarser one resized to it."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.lateral = _normed(nn.Conv2d(in_channels, width, 1, bias=False))
        self.out = _normed(nn.Conv2d(width, width, 3, padding=1, bias=False))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine: [N, C_in, h, w]; coarse: [N, C, h', w'] -> [N, C, h, w]."""
        lateral_NChw = self.lateral(fine)
        resized_NChw = F.interpolate(
            coarse, size=lateral_NChw.shape[-2:], mode="bilinear", align_corners=False
        )
        return F.relu(self.out(lateral_NChw + resized_NChw))


class PixelDecoder(nn.Module):
    """Four maps at strides 4, 8, 16, 32 -> :class:`PixelFeatures`."""

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        width: int = 256,
        mask_width: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_width: int = 1024,
    ) -> None:
        super().__init__()
        self.projections = LevelProjections(in_channels[-NUM_LEVELS:], width)
        self.encoder = DeformableEncoder(
            width,
            num_layers=num_layers,
            num_heads=num_heads,
            num_points=num_points,
            ffn_width=ffn_width,
        )
        self.top_down = TopDownStep(in_channels[-NUM_LEVELS - 1], width)
        self.mask_features = nn.Conv2d(width, mask_width, 1)

    def forward(self, maps: Sequence[Tensor]) -> PixelFeatures:
        """maps: [N, C_l, h_l, w_l] of the backbone, finest first."""
        levels = self.encoder(self.projections(maps[-NUM_LEVELS:]))
        fine_NChw = self.top_down(maps[-NUM_LEVELS - 1], levels[0])
        return PixelFeatures(levels=tuple(levels), mask_features=self.mask_features(fine_NChw))


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    """The convolution and a group norm, of 32 groups where the width allows it (from 128 on)."""
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    groups = math.gcd(NORM_GROUPS, max(conv.out_channels // MIN_GROUP_CHANNELS, 1))
    return nn.Sequential(conv, nn.GroupNorm(groups, conv.out_channels))
