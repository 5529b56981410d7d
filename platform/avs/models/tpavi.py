"""TPAVI, the AVSBench baseline (Zhou et al., Audio-Visual Segmentation, ECCV 2022; AVSS 2023).

Backbone, a dilated neck per stage, a TPAVI block per chosen stage, the decoder and head. Rebuilt
to reproduce the official network's output for its own weights (tests hold it to golden values); of
the official code only the unused duplicate ResNet branch is gone. Trade-off: the returned fused
maps are ReLU'd, because the published losses see them so. Options beyond the paper: which stages
fuse, the width, T together instead of groups of 5.

Shapes: B clips, T frames, H x W image, C channels, h x w map, D audio width, K classes, N = B*T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.models.backbones import build_backbone
from avs.models.decoder import DilatedNeck, MaskDecoder
from avs.models.fusion import TpaviBlock
from avs.models.types import ModelInput, ModelOutput

__all__ = ["TpaviOptions", "TpaviSegmenter", "build_tpavi"]

STAGES = (1, 2, 3, 4)


@dataclass(kw_only=True, slots=True)
class TpaviOptions:
    """Options of the TPAVI model.

    fusion_stages: the backbone stages (1 = stride 4 ... 4 = stride 32) with a TPAVI block.
    fusion_width: channels of necks, blocks and decoder; the inner width of a block is half.
    audio_dim, audio_bias: width of the audio embedding; bias of its projection (False in AVSS).
    temporal_group: frames that attend to each other (5 in official AVSS); None = all T.
    use_audio: False = the plain visual ("vv") block. drop_path: stochastic depth of the backbone.
    backbone_options: further keywords for timm, e.g. {"pad_type": "same"}.
    """

    fusion_stages: Sequence[int] = STAGES
    fusion_width: int = 256
    audio_dim: int = 128
    audio_bias: bool = True
    temporal_group: int | None = None
    use_audio: bool = True
    drop_path: float = 0.0
    backbone_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [stage for stage in self.fusion_stages if stage not in STAGES]
        if unknown or not self.fusion_stages:
            raise ConfigError(
                f"fusion_stages={list(self.fusion_stages)}: one or more of {list(STAGES)}"
            )
        if self.fusion_width < 2 or self.fusion_width % 2:
            raise ConfigError(f"fusion_width={self.fusion_width}: an even number of channels")
        if self.audio_dim < 1:
            raise ConfigError(f"audio_dim={self.audio_dim}: at least 1")
        if self.temporal_group is not None and self.temporal_group < 1:
            raise ConfigError(f"temporal_group={self.temporal_group}: at least 1 frame, or null")
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path={self.drop_path}: between 0 and 1")


class TpaviSegmenter(nn.Module):
    """``ModelInput -> ModelOutput``; T and the image size are free."""

    def __init__(
        self, *, backbone: str, backbone_weights: str, num_classes: int, options: TpaviOptions
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
        self.necks = nn.ModuleList(DilatedNeck(c, width) for c in self.backbone.channels)
        self.fusions = nn.ModuleDict(
            {
                str(stage): TpaviBlock(
                    width,
                    audio_dim=options.audio_dim,
                    audio_bias=options.audio_bias,
                    use_audio=options.use_audio,
                )
                for stage in sorted(set(options.fusion_stages))
            }
        )
        self.decoder = MaskDecoder(width, num_classes=num_classes)

    def forward(self, x: ModelInput) -> ModelOutput:
        """Segment every frame of every clip; logits at the size of the frames."""
        batch, size = x.frames.shape[:2], (int(x.frames.shape[-2]), int(x.frames.shape[-1]))
        frames_N3HW = x.frames.flatten(0, 1)
        flag_N111 = None
        if x.frame_valid is not None:
            flag_N111 = x.frame_valid.flatten().to(frames_N3HW.dtype).view(-1, 1, 1, 1)
        maps: list[Tensor] = []
        projected: list[Tensor | None] = []
        for stage, map_NChw in zip(STAGES, self.backbone(frames_N3HW), strict=True):
            neck_NChw = _flagged(self.necks[stage - 1](map_NChw), flag_N111)
            fused_BTChw, audio_BTC = self._fuse(
                stage, neck_NChw.reshape(*batch, *neck_NChw.shape[1:]), x.audio_embedding
            )
            maps.append(F.relu(_flagged(fused_BTChw.flatten(0, 1), flag_N111)))
            projected.append(audio_BTC)
        logits_NKHW = self.decoder(maps, size=size, valid_N111=flag_N111)
        return ModelOutput(
            logits=logits_NKHW.reshape(*batch, *logits_NKHW.shape[1:]),
            fused_maps=tuple(x_NChw.reshape(*batch, *x_NChw.shape[1:]) for x_NChw in maps),
            projected_audio=tuple(projected),
        )

    def _fuse(self, stage: int, x_BTChw: Tensor, audio_BTD: Tensor) -> tuple[Tensor, Tensor | None]:
        """TPAVI of one stage, in groups of ``temporal_group`` frames folded into the batch."""
        if str(stage) not in self.fusions:
            return x_BTChw, None
        batch = x_BTChw.shape[:2]
        group = min(self.options.temporal_group or batch[1], batch[1])
        if batch[1] % group:
            raise ConfigError(
                f"temporal_group={group} does not divide clips of {batch[1]} frames; use null"
            )
        x_GgChw = x_BTChw.reshape(-1, group, *x_BTChw.shape[2:])
        audio_GgD = audio_BTD.reshape(-1, group, audio_BTD.shape[-1])
        fused, audio = self.fusions[str(stage)](
            x_GgChw, audio_GgD if self.options.use_audio else None
        )
        return (
            fused.reshape(*batch, *fused.shape[2:]),
            None if audio is None else audio.reshape(*batch, -1),
        )


def build_tpavi(
    *, backbone: str, backbone_weights: str, num_classes: int, options: TpaviOptions
) -> TpaviSegmenter:
    """Build the model; see :class:`TpaviOptions`. Raises ConfigError and WeightsError."""
    return TpaviSegmenter(
        backbone=backbone,
        backbone_weights=backbone_weights,
        num_classes=num_classes,
        options=options,
    )


def _flagged(x: Tensor, flag_N111: Tensor | None) -> Tensor:
    return x if flag_N111 is None else x * flag_N111
