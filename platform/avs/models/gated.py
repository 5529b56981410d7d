"""The gated baseline: objects where picture and sound agree. Source: ours.

What any published method has to beat: no attention over space or time, no queries. The maps of the
backbone are added up at stride 4 for what is an object; beside that, the coarsest ones, which know
most of what it is, are compared with the sound of the second, and the odds of every pixel are
multiplied by how far the two agree there. The gate comes last because a normalisation behind it
would make up for a gate that is closed everywhere. Trade-off: a frame knows nothing of the others,
so whatever needs time is lost, and padded frames change nothing for the rest.

Shapes: B clips, T frames, N = B*T, D audio width, C channels, h x w map, H x W image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.models.backbones import STRIDES, build_backbone
from avs.models.origin import Origin
from avs.models.real_frames import in_clips, only, put_back, taught_frames, without_padding
from avs.models.types import ModelInput, ModelOutput

__all__ = ["GATED_ORIGIN", "GatedOptions", "GatedSegmenter", "build_gated"]

GATED_ORIGIN = Origin(
    published="Nothing: a simple baseline for the published methods to be compared with.",
    reconstructed="All of it is ours.",
    where="here",
)
NUM_NORM_GROUPS = 8


@dataclass(kw_only=True, slots=True)
class GatedOptions:
    """Options of the gated baseline.

    fusion_width: C, a multiple of 8. gate_levels: how many maps are compared with the sound, from
    the coarsest on: of pre-trained backbones 2, of small pictures more. gate_width: in how many
    numbers. audio_dim: D. drop_path, backbone_options: as of TPAVI.
    """

    fusion_width: int = 96
    gate_levels: int = 2
    gate_width: int = 32
    audio_dim: int = 128
    drop_path: float = 0.0
    backbone_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fusion_width < 1 or self.fusion_width % NUM_NORM_GROUPS:
            raise ConfigError(f"fusion_width={self.fusion_width}: a multiple of {NUM_NORM_GROUPS}")
        if not 1 <= self.gate_levels <= len(STRIDES):
            raise ConfigError(f"gate_levels={self.gate_levels}: 1 to {len(STRIDES)}")
        for key in ("audio_dim", "gate_width"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: at least 1")
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path={self.drop_path}: between 0 and 1")


class SoundGate(nn.Module):
    """How far what is seen agrees with what is heard: maps and sound -> log odds [N, 1, h, w]."""

    def __init__(self, channels: Sequence[int], width: int, *, audio_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(audio_dim, elementwise_affine=False)
        self.audio = nn.Linear(audio_dim, width)
        self.pixels = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, c, affine=False), nn.Conv2d(c, width, 1))
            for c in channels
        )
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Sequence[Tensor], audio_ND: Tensor) -> Tensor:
        """maps: [N, C_l, h_l, w_l], finest first, whose size the result has; audio_ND: the
        embedding of each frame's second."""
        seen_NCHW, *coarser = (look(x) for look, x in zip(self.pixels, maps, strict=True))
        for x_NChw in coarser:
            seen_NCHW = seen_NCHW + _resized(x_NChw, seen_NCHW)
        wanted_NC = self.audio(self.norm(audio_ND))
        agreement_NHW = torch.einsum("nchw,nc->nhw", seen_NCHW, wanted_NC)
        log_odds_NHW: Tensor = agreement_NHW / wanted_NC.shape[1] ** 0.5 + self.bias
        return log_odds_NHW.unsqueeze(1)


class GatedSegmenter(nn.Module):
    """``ModelInput -> ModelOutput``; T and the image size are free."""

    def __init__(
        self, *, backbone: str, backbone_weights: str, num_classes: int, options: GatedOptions
    ) -> None:
        super().__init__()
        self.options = options
        width = options.fusion_width
        self.backbone = build_backbone(
            backbone,
            weights=backbone_weights,
            drop_path=options.drop_path,
            options=options.backbone_options,
        )
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in self.backbone.channels)
        self.smooth = _conv_block(width)
        self.gate = SoundGate(
            self.backbone.channels[-options.gate_levels :],
            options.gate_width,
            audio_dim=options.audio_dim,
        )
        self.head = nn.Sequential(_conv_block(width), nn.Conv2d(width, num_classes, 1))

    def forward(self, x: ModelInput) -> ModelOutput:
        """Segment every frame by itself; logits at the size of the frames, 0 for padding."""
        x.check(audio_dim=self.options.audio_dim)
        chosen_N = taught_frames(x, training=self.training)
        maps = self.backbone(only(x.frames.flatten(0, 1), chosen_N))
        *finer, map_NChw = (lateral(one) for lateral, one in zip(self.laterals, maps, strict=True))
        for finer_NChw in reversed(finer):
            map_NChw = finer_NChw + _resized(map_NChw, finer_NChw)
        logits_NKhw = self.head(self.smooth(map_NChw)).float()
        audio_ND = only(x.audio_embedding.flatten(0, 1), chosen_N)
        agreement_N1hw = self.gate(maps[-self.options.gate_levels :], audio_ND).float()
        sounding_N1hw = F.logsigmoid(_resized(agreement_N1hw, logits_NKhw))
        logits_NKHW = _resized(_with_odds_times(logits_NKhw, sounding_N1hw), x.frames)
        logits_NKHW = without_padding(put_back(logits_NKHW, chosen_N), x)
        return ModelOutput(logits=in_clips(logits_NKHW, x))


def build_gated(
    *, backbone: str, backbone_weights: str, num_classes: int, options: GatedOptions
) -> GatedSegmenter:
    """Build the model; see :class:`GatedOptions`. Raises ConfigError and WeightsError."""
    return GatedSegmenter(
        backbone=backbone,
        backbone_weights=backbone_weights,
        num_classes=num_classes,
        options=options,
    )


def _with_odds_times(logits_NKhw: Tensor, log_factor_N1hw: Tensor) -> Tensor:
    """Odds of every class against the background, which is the first of several, times a factor."""
    num_classes = logits_NKhw.shape[1]
    if num_classes == 1:
        return logits_NKhw + log_factor_N1hw
    factors_NKhw = log_factor_N1hw.expand(-1, num_classes - 1, -1, -1)
    return logits_NKhw + F.pad(factors_NKhw, (0, 0, 0, 0, 1, 0))


def _resized(x_NChw: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x_NChw, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _conv_block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.GroupNorm(NUM_NORM_GROUPS, width),
        nn.ReLU(inplace=True),
    )
