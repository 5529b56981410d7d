"""The gated baseline: a feature pyramid whose pixels the sound opens or closes. Source: ours.

What any published method has to beat: no attention over space or time, no queries. The maps of the
backbone are added up at stride 4, and each pixel passes as far as its features agree with the
sound of its second. Trade-off: a frame knows nothing of the others, so whatever needs time is lost,
and padded frames change nothing for the rest.

Shapes: B clips, T frames, N = B*T, D audio width, C channels, h x w map, H x W image, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.models.backbones import build_backbone
from avs.models.origin import Origin
from avs.models.real_frames import frames_to_train_on, only, put_back
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

    fusion_width: C, a multiple of 8. audio_dim: D. drop_path, backbone_options: as of TPAVI.
    """

    fusion_width: int = 96
    audio_dim: int = 128
    drop_path: float = 0.0
    backbone_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fusion_width < 1 or self.fusion_width % NUM_NORM_GROUPS:
            raise ConfigError(f"fusion_width={self.fusion_width}: a multiple of {NUM_NORM_GROUPS}")
        if self.audio_dim < 1:
            raise ConfigError(f"audio_dim={self.audio_dim}: at least 1")
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path={self.drop_path}: between 0 and 1")


class SoundGate(nn.Module):
    """Each pixel times sigmoid(its features . a projection of the sound): [N, C, h, w] -> same."""

    def __init__(self, width: int, *, audio_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(audio_dim)
        self.audio = nn.Linear(audio_dim, width)
        self.pixels = nn.Conv2d(width, width, 1)

    def forward(self, x_NChw: Tensor, audio_ND: Tensor) -> Tensor:
        """audio_ND: the embedding of each frame's second."""
        wanted_NC = self.audio(self.norm(audio_ND))
        agreement_Nhw = torch.einsum("nchw,nc->nhw", self.pixels(x_NChw), wanted_NC)
        return x_NChw * torch.sigmoid(agreement_Nhw / x_NChw.shape[1] ** 0.5).unsqueeze(1)


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
        self.gate = SoundGate(width, audio_dim=options.audio_dim)
        self.head = nn.Sequential(_conv_block(width), nn.Conv2d(width, num_classes, 1))

    def forward(self, x: ModelInput) -> ModelOutput:
        """Segment every frame by itself; logits at the size of the frames, 0 for padding."""
        x.check(audio_dim=self.options.audio_dim)
        chosen_N = frames_to_train_on(x, training=self.training)
        maps = self.backbone(only(x.frames.flatten(0, 1), chosen_N))
        *finer, map_NChw = (lateral(one) for lateral, one in zip(self.laterals, maps, strict=True))
        for finer_NChw in reversed(finer):
            map_NChw = finer_NChw + F.interpolate(map_NChw, size=finer_NChw.shape[-2:])
        audio_ND = only(x.audio_embedding.flatten(0, 1), chosen_N)
        logits_NKHW = F.interpolate(
            self.head(self.gate(self.smooth(map_NChw), audio_ND)),
            size=x.frames.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        logits_NKHW = put_back(logits_NKHW, chosen_N)
        if x.frame_valid is not None:
            logits_NKHW = logits_NKHW * x.frame_valid.reshape(-1, 1, 1, 1).to(logits_NKHW.dtype)
        return ModelOutput(logits=logits_NKHW.reshape(*x.frames.shape[:2], *logits_NKHW.shape[1:]))


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


def _conv_block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.GroupNorm(NUM_NORM_GROUPS, width),
        nn.ReLU(inplace=True),
    )
