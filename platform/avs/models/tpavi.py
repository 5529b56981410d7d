"""TPAVI, the AVSBench baseline (Zhou et al., Audio-Visual Segmentation, ECCV 2022; AVSS 2023).

Backbone, a dilated neck per stage, a TPAVI block per chosen stage, the decoder and head. Rebuilt
to reproduce the official network's output for its own weights (tests hold it to golden values); of
the official code only the unused duplicate ResNet branch is gone. Options beyond the paper: which
stages fuse, the width, T together instead of groups of 5, padding that changes nothing.

Shapes: B clips, T frames, H x W image, C channels, h x w map, N = B*T.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from avs.models.backbones import build_backbone
from avs.models.decoder import DilatedNeck, MaskDecoder
from avs.models.origin import Origin
from avs.models.real_frames import frames_to_train_on, only, put_back
from avs.models.tpavi_stages import FusionOptions, build_fusions, fuse_and_decode
from avs.models.types import ModelInput, ModelOutput

__all__ = ["TPAVI_ORIGIN", "TpaviOptions", "TpaviSegmenter", "build_tpavi"]

TPAVI_ORIGIN = Origin(
    published=(
        "Network, losses and recipe for ResNet-50 and PVT-v2-b5 (AVSBench, ECCV 2022, and its "
        "semantic extension). For the same weights this model gives the same logits as the "
        "authors' code, up to rounding."
    ),
    reconstructed=(
        "The backbones are timm's, and the fusion is computed by an exact factorisation. Any "
        "other backbone, and other values than the recipe's for fusion_stages, fusion_width, "
        "fusion_start and temporal_group, are ours."
    ),
    where="https://github.com/OpenNLPLab/AVSBench",
)


@dataclass(kw_only=True, slots=True)
class TpaviOptions(FusionOptions):
    """Options of the TPAVI model, beside the shared ones.

    use_audio: False = the plain visual ("vv") block.
    """

    use_audio: bool = True


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
        self.fusions = build_fusions(options, use_audio=options.use_audio)
        self.decoder = MaskDecoder(width, num_classes=num_classes)

    def forward(self, x: ModelInput) -> ModelOutput:
        """Segment every frame of every clip; logits at the size of the frames.

        Raises ValueError where the shapes of ``x`` do not belong together.
        """
        x.check(audio_dim=self.options.audio_dim if self.options.use_audio else None)
        chosen_N = frames_to_train_on(x, training=self.training and self.options.mask_padding)
        maps = self.backbone(only(x.frames.flatten(0, 1), chosen_N))
        return fuse_and_decode(
            (neck(put_back(seen, chosen_N)) for neck, seen in zip(self.necks, maps, strict=True)),
            x,
            fusions=self.fusions,
            decoder=self.decoder,
            options=self.options,
            use_audio=self.options.use_audio,
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
