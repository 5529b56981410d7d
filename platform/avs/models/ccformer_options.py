"""What can be chosen about CCFormer, and which choices do not fit together.

A module of its own because there are many: each part of the method can be switched off, so that its
worth can be measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from avs.errors import ConfigError
from avs.models.backbones import STRIDES
from avs.models.contrastive import MAX_LOGIT_SCALE

__all__ = ["CcformerOptions"]


@dataclass(kw_only=True, slots=True)
class CcformerOptions:
    """Options of CCFormer; those of the network first, then those of its losses.

    fusion_width: d, channels everywhere behind the backbone; ffn_width: of the feed-forward blocks.
    num_queries: Q. num_extra_levels: made from the last map by strided convolutions (R: 1).
    num_eim_levels: the coarsest levels on which sound and picture meet; 0 = no early integration.
    num_encoder_layers: of the deformable encoder; num_decoder_layers: of the queries.
    use_frame_level: queries look at their frame; use_video_level: at those of the other frames.
    temperature: where the learnable one of the contrastive loss starts.
    aux_weight: of all layers before the last; 0 = they are not supervised. bcl_weight: of the
    contrastive loss; 0 leaves it out. Both are options of the model and not of the ``loss`` section
    because what does not count has no parameters. class_dice_weight: of Dice over classes, which
    the ``loss`` section does not have (its dice_weight is for binary masks only).
    audio_dim, drop_path, backbone_options: as of TPAVI.
    """

    num_queries: int = 100
    num_eim_levels: int = 5
    num_extra_levels: int = 1
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    use_frame_level: bool = True
    use_video_level: bool = True
    fusion_width: int = 256
    ffn_width: int = 2048
    num_heads: int = 8
    temperature: float = 0.07
    aux_weight: float = 1.0
    bcl_weight: float = 0.1
    class_dice_weight: float = 1.0
    audio_dim: int = 128
    drop_path: float = 0.0
    backbone_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = ("num_queries", "num_encoder_layers", "num_decoder_layers", "ffn_width")
        for key in (*counts, "num_heads", "audio_dim"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: at least 1")
        if self.num_extra_levels < 0:
            raise ConfigError(f"num_extra_levels={self.num_extra_levels}: 0 or more")
        if not 0 <= self.num_eim_levels <= self.num_levels:
            raise ConfigError(
                f"num_eim_levels={self.num_eim_levels}: 0 to {self.num_levels}, the {len(STRIDES)} "
                f"of the backbone and num_extra_levels={self.num_extra_levels}"
            )
        if self.fusion_width < 8 or self.fusion_width % 8 or self.fusion_width % self.num_heads:
            raise ConfigError(
                f"fusion_width={self.fusion_width}: a multiple of 8 and of "
                f"num_heads={self.num_heads}"
            )
        if not (self.use_frame_level or self.use_video_level):
            raise ConfigError(
                "use_frame_level and use_video_level are both false: nothing is left of the "
                "decoder layers, keep one"
            )
        self._check_losses()
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path={self.drop_path}: between 0 and 1")

    def _check_losses(self) -> None:
        if not self.temperature >= 1.0 / MAX_LOGIT_SCALE:
            raise ConfigError(
                f"temperature={self.temperature}: at least {1.0 / MAX_LOGIT_SCALE}, the logit "
                f"scale is capped at {MAX_LOGIT_SCALE:g}"
            )
        for key in ("aux_weight", "bcl_weight", "class_dice_weight"):
            if not getattr(self, key) >= 0.0:
                raise ConfigError(f"{key}={getattr(self, key)}: 0 or more")

    @property
    def num_levels(self) -> int:
        """Levels behind the projections."""
        return len(STRIDES) + self.num_extra_levels

    def check_batch(self, num_clips: int) -> None:
        """Raise ConfigError where a step of ``num_clips`` clips on all workers cannot be learnt."""
        if self.bcl_weight and num_clips < 2:
            raise ConfigError(
                f"a forward pass has {num_clips} clip on all workers together, and the contrastive "
                "loss of ccformer compares with other clips of the same pass "
                "(train.accumulate_steps adds none): give train.batch_size=2 or more, train on "
                "more workers, or leave it out with +model.options.bcl_weight=0"
            )
