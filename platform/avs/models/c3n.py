"""C3N: cross-modal cognitive consensus guided audio-visual segmentation (Shi et al., TMM 2024).

A backbone with its ImageNet classifier, the consensus class of each frame's picture and sound,
attention to where the picture shows that class, ASPP per stage, then TPAVI's fusion and decoder.
Rebuilt to reproduce the official network's output for its own weights (tests hold it to golden
values). Reconstructed: the similarity of the two label sets, which was never published. Trade-off:
the attention takes a gradient inside forward, so backbone and attention run eagerly under
torch.compile, and without training frames go through in groups that bound the memory of the graph.

Shapes: B clips, T frames, H x W image, C channels, h x w map, N = B*T; 1000 ImageNet classes, 527
AudioSet classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from avs.errors import ConfigError
from avs.models.aspp import Aspp
from avs.models.classified_backbone import build_classified_backbone
from avs.models.cognitive import attend, class_attention, consensus_scores
from avs.models.decoder import MaskDecoder
from avs.models.origin import Origin
from avs.models.real_frames import frames_to_train_on, only, put_back
from avs.models.similarity import checked_similarity, load_similarity
from avs.models.tpavi_stages import STAGES, FusionOptions, build_fusions, fuse_and_decode
from avs.models.types import ModelInput, ModelOutput

__all__ = ["C3N_ORIGIN", "C3nOptions", "C3nSegmenter", "build_c3n"]

# What one graph without training holds at most: 16 frames of 224 px, about 3 GB for PVT-v2-b5.
PIXELS_PER_GRAPH = 16 * 224 * 224

C3N_ORIGIN = Origin(
    published=(
        "Consensus inference and attention, network, losses and recipe (Cross-modal Cognitive "
        "Consensus guided Audio-Visual Segmentation, TMM 2024, and its authors' code)."
    ),
    reconstructed=(
        "The similarity matrix of ImageNet and AudioSet labels was never published: unless "
        "another one was given, it is ours, made from a sentence encoder. The fusion is "
        "computed by an exact factorisation. The classes of an audio network are put into "
        "AudioSet's order, which the authors' code leaves out for BEATs."
    ),
    where="https://github.com/ZhaofengSHI/AVS-C3N",
)


@dataclass(kw_only=True, slots=True)
class C3nOptions(FusionOptions):
    """Options of C3N, beside the shared ones (audio_dim: 128 VGGish, 2048 PANNs, 768 BEATs).

    alpha: exponent of both softmax outputs. similarity: [1000, 527] tensor or array (kept as a
    float32 tensor), path or s3:// URI, or None for the shipped one; it becomes part of the state
    dict.
    """

    alpha: float = 0.1
    similarity: Tensor | np.ndarray[Any, Any] | str | None = None

    def __post_init__(self) -> None:
        FusionOptions.__post_init__(self)
        if tuple(self.fusion_stages) != STAGES:
            raise ConfigError(f"fusion_stages={list(self.fusion_stages)}: c3n fuses all four")
        if not self.alpha > 0.0:
            raise ConfigError(f"alpha={self.alpha}: above 0")
        if self.similarity is not None and not isinstance(self.similarity, str):
            self.similarity = checked_similarity(self.similarity)


class C3nSegmenter(nn.Module):
    """``ModelInput -> ModelOutput``, with ``consensus``; T and the image size are free."""

    similarity: Tensor

    def __init__(
        self, *, backbone: str, backbone_weights: str, num_classes: int, options: C3nOptions
    ) -> None:
        super().__init__()
        self.options = options
        width = options.fusion_width
        self.backbone = build_classified_backbone(
            backbone,
            weights=backbone_weights,
            drop_path=options.drop_path,
            options=options.backbone_options,
        )
        given = options.similarity
        loaded = load_similarity(given) if given is None or isinstance(given, str) else given
        self.register_buffer("similarity", checked_similarity(loaded))
        self.necks = nn.ModuleList(Aspp(c, width) for c in self.backbone.channels)
        self.fusions = build_fusions(options)
        self.decoder = MaskDecoder(width, num_classes=num_classes)

    def forward(self, x: ModelInput) -> ModelOutput:
        """Segment every frame of every clip; logits at the size of the frames.

        x.audio_logits are needed: [B, T, 527], -inf for classes that the audio network lacks.
        Raises ConfigError without them, ValueError where the shapes of ``x`` do not belong
        together.
        """
        if x.audio_logits is None:
            raise ConfigError(
                "c3n needs the sound's class scores: take a model.audio_network that gives them"
            )
        x.check(audio_dim=self.options.audio_dim)
        chosen_N = frames_to_train_on(x, training=self.training and self.options.mask_padding)
        maps, scores = self._look(
            only(x.frames.flatten(0, 1), chosen_N), only(x.audio_logits.flatten(0, 1), chosen_N)
        )
        output = fuse_and_decode(
            (neck(put_back(seen, chosen_N)) for neck, seen in zip(self.necks, maps, strict=True)),
            x,
            fusions=self.fusions,
            decoder=self.decoder,
            options=self.options,
        )
        output.consensus = put_back(scores, chosen_N).reshape(*x.frames.shape[:2], -1)
        return output

    # Not compiled: a compiled graph cannot be differentiated to a map in its middle. This is
    # torch.compiler.disable as torch's own optimisers use it: the compiler is imported by the first
    # call instead of here, where it would take two seconds of every process that names a model.
    @_disable_dynamo
    def _look(self, x_N3HW: Tensor, audio_logits: Tensor) -> tuple[list[Tensor], Tensor]:
        """The attended maps of all frames, and their consensus scores [N, 1000]."""
        if self.training or torch.is_grad_enabled():
            return self._look_at_once(x_N3HW, audio_logits)
        group = _even_group(len(x_N3HW), num_pixels=x_N3HW.shape[-2] * x_N3HW.shape[-1])
        groups = (slice(start, start + group) for start in range(0, len(x_N3HW), group))
        parts = [self._look_at_once(x_N3HW[frames], audio_logits[frames]) for frames in groups]
        maps = [torch.cat(stage) for stage in zip(*(maps for maps, _ in parts), strict=True)]
        return maps, torch.cat([scores for _, scores in parts])

    def _look_at_once(self, x_N3HW: Tensor, audio_logits: Tensor) -> tuple[list[Tensor], Tensor]:
        """Classify, agree with the sound, attend to what was agreed on."""
        trains = torch.is_grad_enabled() and any(
            p.requires_grad for p in self.backbone.parameters()
        )
        seen = self.backbone(x_N3HW)
        scores_N1000 = consensus_scores(
            seen.logits, audio_logits, self.similarity, alpha=self.options.alpha
        )
        weights = class_attention(
            seen.logits,
            scores_N1000.argmax(dim=1),
            seen.blocks,
            channels_last=self.backbone.channels_last,
            retain_graph=trains,
        )
        maps = seen.maps if trains else [map_NChw.detach() for map_NChw in seen.maps]
        return [attend(*pair) for pair in zip(maps, weights, strict=True)], scores_N1000


def build_c3n(
    *, backbone: str, backbone_weights: str, num_classes: int, options: C3nOptions
) -> C3nSegmenter:
    """Build the model; see :class:`C3nOptions`. Raises ConfigError and WeightsError."""
    return C3nSegmenter(
        backbone=backbone,
        backbone_weights=backbone_weights,
        num_classes=num_classes,
        options=options,
    )


def _even_group(num_frames: int, *, num_pixels: int) -> int:
    """Most frames a graph may hold that divide them evenly.

    Groups of one size: a frame's numbers then do not depend on its place in the batch.
    """
    limit = max(1, min(num_frames, PIXELS_PER_GRAPH // num_pixels))
    return next(size for size in range(limit, 0, -1) if num_frames % size == 0)
