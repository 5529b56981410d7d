"""From the necks' maps to masks: TPAVI fusion per stage and the decoder, shared by TPAVI and C3N.

Clips are folded into frames around the fusion, so the number of frames and the image size are free.
Padded frames are multiplied by zero where the official AVSS code does it: after the necks, after
the fusion and in the decoder. As keys of the fusion they still count there, through its biases and
its 1/T; ``mask_padding`` (ours) fuses the real frames alone. Trade-off: the returned fused maps are
ReLU'd, because the published losses see them so.

Shapes: B clips, T frames, C channels, h x w map, D audio width, K classes, N = B*T; G groups of g
frames, of which V are valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.models.decoder import MaskDecoder
from avs.models.fusion import TpaviBlock
from avs.models.types import ModelInput, ModelOutput

__all__ = ["STAGES", "FusionOptions", "build_fusions", "fuse_and_decode"]

STAGES = (1, 2, 3, 4)


@dataclass(kw_only=True, slots=True)
class FusionOptions:
    """Options that TPAVI and C3N share.

    fusion_stages: the backbone stages (1 = stride 4 ... 4 = stride 32) with a TPAVI block.
    fusion_width: channels of necks, blocks and decoder; the inner width of a block is half.
    fusion_start: weight of a block's batch norm before training: 0 as published, which lets the
        picture learn first and the sound late; above 0 (ours) short trainings hear too.
    audio_dim, audio_bias: width of the audio embedding; bias of its projection (False in AVSS).
    temporal_group: frames that attend to each other (5 in official AVSS); None = all T.
    mask_padding: padded frames change nothing for the others; False = as published.
    drop_path: stochastic depth of the backbone.
    backbone_options: further keywords for timm, e.g. {"pad_type": "same"}.
    """

    fusion_stages: Sequence[int] = STAGES
    fusion_width: int = 256
    fusion_start: float = 0.0
    audio_dim: int = 128
    audio_bias: bool = True
    temporal_group: int | None = None
    mask_padding: bool = False
    drop_path: float = 0.0
    backbone_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [stage for stage in self.fusion_stages if stage not in STAGES]
        if unknown or not self.fusion_stages:
            raise ConfigError(
                f"fusion_stages={list(self.fusion_stages)}: one or more of {list(STAGES)}"
            )
        if len(set(self.fusion_stages)) < len(self.fusion_stages):
            raise ConfigError(f"fusion_stages={list(self.fusion_stages)}: each stage once")
        if self.fusion_width < 2 or self.fusion_width % 2:
            raise ConfigError(f"fusion_width={self.fusion_width}: an even number of channels")
        if not 0.0 <= self.fusion_start < math.inf:
            raise ConfigError(f"fusion_start={self.fusion_start}: 0 (as published) or above")
        if self.audio_dim < 1:
            raise ConfigError(f"audio_dim={self.audio_dim}: at least 1")
        if self.temporal_group is not None and self.temporal_group < 1:
            raise ConfigError(f"temporal_group={self.temporal_group}: at least 1 frame, or null")
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path={self.drop_path}: between 0 and 1")


def build_fusions(options: FusionOptions, *, use_audio: bool = True) -> nn.ModuleDict:
    """The TPAVI blocks by stage ("1" = finest)."""
    return nn.ModuleDict(
        {
            str(stage): TpaviBlock(
                options.fusion_width,
                audio_dim=options.audio_dim,
                audio_bias=options.audio_bias,
                use_audio=use_audio,
                start=options.fusion_start,
            )
            for stage in sorted(options.fusion_stages)
        }
    )


def fuse_and_decode(
    necks: Iterable[Tensor],
    x: ModelInput,
    *,
    fusions: nn.ModuleDict,
    decoder: MaskDecoder,
    options: FusionOptions,
    use_audio: bool = True,
) -> ModelOutput:
    """Fuse each stage with the sound and decode.

    necks: four [N, C, h, w], finest first. x: where the sound, the frames' size and the padding
    come from. fusions: from :func:`build_fusions`; a stage without a block passes through.
    Raises ConfigError when T is no multiple of ``options.temporal_group``.
    """
    batch, size = x.frames.shape[:2], (int(x.frames.shape[-2]), int(x.frames.shape[-1]))
    audio_BTD = x.audio_embedding if use_audio else None
    flag_N111 = None
    if x.frame_valid is not None:
        flag_N111 = x.frame_valid.flatten().to(x.frames.dtype).view(-1, 1, 1, 1)
    valid_BT = x.frame_valid if options.mask_padding else None
    maps: list[Tensor] = []
    projected: list[Tensor | None] = []
    for stage, neck_NChw in zip(STAGES, necks, strict=True):
        fused_NChw, audio_BTC = _flagged(neck_NChw, flag_N111), None
        if str(stage) in fusions:
            x_BTChw = fused_NChw.reshape(*batch, *fused_NChw.shape[1:])
            group = _group_length(options.temporal_group, num_frames=batch[1])
            fused_BTChw, audio_BTC = _in_groups(
                fusions[str(stage)], x_BTChw, audio_BTD, valid_BT, group=group
            )
            fused_NChw = fused_BTChw.flatten(0, 1)
        maps.append(F.relu(_flagged(fused_NChw, flag_N111)))
        projected.append(audio_BTC)
    logits_NKHW = decoder(maps, size=size, valid_N111=flag_N111)
    return ModelOutput(
        logits=logits_NKHW.reshape(*batch, *logits_NKHW.shape[1:]),
        fused_maps=tuple(x_NChw.reshape(*batch, *x_NChw.shape[1:]) for x_NChw in maps),
        projected_audio=tuple(projected),
    )


def _group_length(temporal_group: int | None, *, num_frames: int) -> int:
    group = min(temporal_group or num_frames, num_frames)
    if num_frames % group:
        raise ConfigError(
            f"temporal_group={group} does not divide clips of {num_frames} frames; use null"
        )
    return group


def _in_groups(
    fusion: nn.Module,
    x_BTChw: Tensor,
    audio_BTD: Tensor | None,
    valid_BT: Tensor | None,
    *,
    group: int,
) -> tuple[Tensor, Tensor | None]:
    """TPAVI of one stage, in groups of frames folded into the batch."""
    batch = x_BTChw.shape[:2]
    x_GgChw = x_BTChw.reshape(-1, group, *x_BTChw.shape[2:])
    audio_GgD = None if audio_BTD is None else audio_BTD.reshape(-1, group, audio_BTD.shape[-1])
    if valid_BT is None:
        fused, audio = fusion(x_GgChw, audio_GgD)
    else:
        fused, audio = _valid_alone(fusion, x_GgChw, audio_GgD, valid_BT.reshape(-1, group))
    return (
        fused.reshape(*batch, *fused.shape[2:]),
        None if audio is None else audio.reshape(*batch, -1),
    )


def _valid_alone(
    fusion: nn.Module, x_GgChw: Tensor, audio_GgD: Tensor | None, valid_Gg: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Fuse each group's valid frames as if the others were not there; those become 0.

    Groups with the same number of valid frames go together. Costs a synchronisation per stage.
    """
    fused_GgChw, audio_GgC = torch.zeros_like(x_GgChw), None
    num_valid_G = valid_Gg.sum(dim=1)
    for num_valid in sorted({int(count) for count in num_valid_G.tolist()} - {0}):
        chosen_Gg = valid_Gg & (num_valid_G == num_valid).unsqueeze(1)
        x_GVChw = x_GgChw[chosen_Gg].reshape(-1, num_valid, *x_GgChw.shape[2:])
        audio_GVD = None
        if audio_GgD is not None:
            audio_GVD = audio_GgD[chosen_Gg].reshape(-1, num_valid, audio_GgD.shape[-1])
        fused, audio = fusion(x_GVChw, audio_GVD)
        fused_GgChw = fused_GgChw.to(fused.dtype)
        fused_GgChw[chosen_Gg] = fused.flatten(0, 1)
        if audio is not None:
            if audio_GgC is None:
                audio_GgC = audio.new_zeros(*valid_Gg.shape, audio.shape[-1])
            audio_GgC[chosen_Gg] = audio.flatten(0, 1)
    return fused_GgChw, audio_GgC


def _flagged(x: Tensor, flag_N111: Tensor | None) -> Tensor:
    return x if flag_N111 is None else x * flag_N111
