"""Metrics: the AVSBench protocol, equal to the official numbers, and pooled ones.

Numbers of different protocols cannot be compared; every result names its own.
"""

from __future__ import annotations

import enum

from avs.metrics.avsbench import (
    NUM_THRESHOLDS,
    BinaryMeter,
    ClipMetrics,
    clip_metrics,
    f_curve,
    f_score,
    frame_iou,
    mask_iou,
    nonempty,
)
from avs.metrics.pooled import ClassAreas, PooledMeter, class_areas
from avs.metrics.semantic import IGNORE_INDEX, SemanticMeter, SemanticSums, semantic_sums

__all__ = [
    "IGNORE_INDEX",
    "NUM_THRESHOLDS",
    "BinaryMeter",
    "ClassAreas",
    "ClipMetrics",
    "PooledMeter",
    "Protocol",
    "SemanticMeter",
    "SemanticSums",
    "class_areas",
    "clip_metrics",
    "f_curve",
    "f_score",
    "frame_iou",
    "make_meter",
    "mask_iou",
    "nonempty",
    "semantic_sums",
]


class Protocol(enum.Enum):
    """avsbench: means over frames (semantic) or over test batches (binary). pooled: pixels of the
    whole split counted together, as DDESeg and others report."""

    AVSBENCH = "avsbench"
    POOLED = "pooled"


def make_meter(
    protocol: Protocol | str, *, num_classes: int, batch_size_clips: int = 1
) -> BinaryMeter | SemanticMeter | PooledMeter:
    """A meter with ``add_clip(logits, masks, mask_valid)`` and ``result()``.

    num_classes: 1 = binary. batch_size_clips: test batch, on which AVSBench's binary figures
    depend; the others do not. Raises ValueError for an unknown protocol.
    """
    if Protocol(protocol) is Protocol.POOLED:
        return PooledMeter(num_classes)
    if num_classes == 1:
        return BinaryMeter(batch_size_clips)
    return SemanticMeter(num_classes)
