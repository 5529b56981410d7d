"""CCFormer: Complementary and Contrastive Learning for Audio-Visual Segmentation (TMM 2025, arXiv
2510.10051).

Sound and picture meet on every level (early integration), audio queries look at their frame and at
each other through the clip (multi-query transformer), both modalities are aligned in one space
(contrastive learning). Published is what the abstract says: these three modules and what each is
for. How they are built is reconstructed from the same author's later public work, and the losses
are ours; each module says which is which. Trade-off: the network follows that reconstruction at
every point where it says something, so its figures are this reconstruction's, not the paper's.

Shapes: B clips, T frames, N = B*T, C channels, Q queries a frame, h x w map, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avs.errors import ConfigError
from avs.models.backbones import build_backbone
from avs.models.ccformer_options import CcformerOptions
from avs.models.contrastive import ContrastiveHeads, contrastive_loss, num_ranks
from avs.models.dense_objective import aux_losses, dense_losses
from avs.models.early_integration import EarlyIntegration
from avs.models.multi_query import MultiQueryTransformer
from avs.models.origin import Origin
from avs.models.pixel_decoder import LevelProjections
from avs.models.pixel_losses import LossConfig, LossKind
from avs.models.query_mask_head import QueryMaskHead
from avs.models.real_frames import (
    frames_to_train_on,
    in_clips,
    only,
    put_back,
    without_padding,
)
from avs.models.temporal_pixels import NUM_ENCODED_LEVELS, TemporalPixelDecoder
from avs.models.types import ModelInput, ModelOutput, Truth

__all__ = ["CCFORMER_ORIGIN", "CcformerOptions", "CcformerSegmenter", "build_ccformer"]

CCFORMER_ORIGIN = Origin(
    published=(
        "Three modules and what each is for, as the abstract says (Complementary and "
        "Contrastive Learning for Audio-Visual Segmentation, TMM 2025): early integration of "
        "sound and picture on every level in both directions, a transformer of audio queries "
        "that relates frame and video level, and contrastive learning of both modalities. No "
        "results table could be retrieved."
    ),
    reconstructed=(
        "How the modules are built: from the same author's later public work, never compared "
        "with the authors' code. Ours: the losses and their weights, supervision of the "
        "layers before the last at a quarter of the size, picture embeddings from features "
        "that no sound was mixed into, the numbers of queries and layers, the coarsest level first "
        "and every second of sound for every pixel (early integration), attention over time at "
        "the own place alone (pixels), how queries become masks, and Dice over classes."
    ),
    where="no code of the authors is known here",
)


class CcformerSegmenter(nn.Module):
    """``ModelInput -> ModelOutput``; T and the image size are free."""

    def __init__(
        self, *, backbone: str, backbone_weights: str, num_classes: int, options: CcformerOptions
    ) -> None:
        super().__init__()
        self.options = options
        width, num_heads = options.fusion_width, options.num_heads
        self.backbone = build_backbone(
            backbone,
            weights=backbone_weights,
            drop_path=options.drop_path,
            options=options.backbone_options,
        )
        self.projections = LevelProjections(
            self.backbone.channels, width, num_extra_levels=options.num_extra_levels
        )
        self.audio = nn.Linear(options.audio_dim, width)
        self.early = EarlyIntegration(width, num_levels=options.num_eim_levels, num_heads=num_heads)
        self.pixels = TemporalPixelDecoder(
            width,
            num_levels=options.num_levels,
            num_layers=options.num_encoder_layers,
            num_heads=num_heads,
            ffn_width=options.ffn_width,
        )
        self.queries = MultiQueryTransformer(
            width,
            num_queries=options.num_queries,
            num_layers=options.num_decoder_layers,
            num_levels=NUM_ENCODED_LEVELS,
            num_heads=num_heads,
            ffn_width=options.ffn_width,
            use_frame_level=options.use_frame_level,
            use_video_level=options.use_video_level,
        )
        self.supervises_layers = options.aux_weight > 0.0 and options.num_decoder_layers > 1
        self.head = QueryMaskHead(
            width,
            num_queries=options.num_queries,
            num_classes=num_classes,
            with_aux=self.supervises_layers,
        )
        self.contrast = (
            ContrastiveHeads(width, temperature=options.temperature) if options.bcl_weight else None
        )

    def forward(self, x: ModelInput) -> ModelOutput:
        """Segment every frame of every clip; logits at the size of the frames, 0 for padding.

        aux_logits: in training, of the layers before the last. embeddings: unless bcl_weight is 0.
        """
        x.check(audio_dim=self.options.audio_dim)
        size = (int(x.frames.shape[-2]), int(x.frames.shape[-1]))
        chosen_N = frames_to_train_on(x, training=self.training)
        seen_maps = self.backbone(only(x.frames.flatten(0, 1), chosen_N))
        maps = self.projections([put_back(seen_NChw, chosen_N) for seen_NChw in seen_maps])
        audio_BTC = self.audio(x.audio_embedding)
        levels, heard_BTC = self.early(maps, audio_BTC, frame_valid=x.frame_valid)
        seen = self.pixels(levels, heard_BTC, frame_valid=x.frame_valid)
        every_layer = self.training and self.supervises_layers
        *early, last = self.queries(
            seen.levels, heard_BTC, frame_valid=x.frame_valid, every_layer=every_layer
        )
        logits_NKHW = without_padding(self.head(last, seen.mask_features, size=size), x)
        aux = [self.head.aux_logits(queries, seen.mask_features) for queries in early]
        contrast = self.contrast
        return ModelOutput(
            logits=in_clips(logits_NKHW, x),
            aux_logits=tuple(in_clips(aux_NKhw, x) for aux_NKhw in aux) or None,
            embeddings=None if contrast is None else contrast(audio_BTC, maps, logits_NKHW),
        )

    def objective(
        self, output: ModelOutput, truth: Truth, *, config: LossConfig
    ) -> dict[str, Tensor]:
        """Cross entropy, Dice, the same of each layer before the last, and the contrastive loss.

        Returns the total under "loss" (with gradient) and its unweighted parts (detached): "bce" or
        "cross_entropy", "dice", "auxiliary" (weighted within itself as the last layer), "bcl".
        config: its weights are those of every layer.
        Raises ConfigError for a step of one clip (unless bcl_weight is 0) and a mapping term.
        """
        options = self.options
        options.check_batch(num_ranks() * len(truth.videos))
        if config.mapping_weight:
            raise ConfigError(
                f"loss.mapping_weight={config.mapping_weight}: ccformer has no such term, its "
                "modalities are aligned by model.options.bcl_weight; give 0"
            )
        is_binary = config.kind is LossKind.BINARY
        dice_weight = config.dice_weight if is_binary else options.class_dice_weight
        where = (truth.masks, truth.mask_valid)
        entropy, dice = dense_losses(output.logits, *where, config=config)
        parts = {
            "bce" if is_binary else "cross_entropy": (config.bce_weight, entropy),
            "dice": (dice_weight, dice),
        }
        if output.aux_logits is not None:
            entropy, dice = aux_losses(output.aux_logits, *where, config=config)
            auxiliary = config.bce_weight * entropy + dice_weight * dice
            parts["auxiliary"] = (options.aux_weight, auxiliary)
        if output.embeddings is not None:
            bcl = contrastive_loss(
                output.embeddings,
                videos=truth.videos,
                frame_valid=truth.frame_valid,
                off_screen=truth.off_screen,
            )
            parts["bcl"] = (options.bcl_weight, bcl)
        total = torch.stack([weight * value for weight, value in parts.values()]).sum()
        return {"loss": total} | {name: value.detach() for name, (_, value) in parts.items()}


def build_ccformer(
    *, backbone: str, backbone_weights: str, num_classes: int, options: CcformerOptions
) -> CcformerSegmenter:
    """Build the model; see :class:`CcformerOptions`. Raises ConfigError and WeightsError."""
    return CcformerSegmenter(
        backbone=backbone,
        backbone_weights=backbone_weights,
        num_classes=num_classes,
        options=options,
    )
