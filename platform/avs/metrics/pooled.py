"""Pooled metrics: the pixels of a whole split counted together, class by class.

As DDESeg computes them: per class the sums of intersection, prediction and truth over all frames
with ground truth, then IoU, F1 and F (beta^2 = 0.3) of the sums, then the mean over the classes
that occur in either. Large objects weigh more than in the AVSBench protocol, and classes that never
occur do not count as 0, so the numbers are higher and not comparable. For binary masks the one
class is "sounding" (logit > 0): our reading, the published code is semantic only.

Shapes: N frames, T frames of a clip, H x W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avs.metrics.avsbench import f_measure
from avs.metrics.semantic import frame_class_areas

__all__ = ["ClassAreas", "PooledMeter", "class_areas"]


@dataclass(kw_only=True, slots=True)
class ClassAreas:
    """Pixels per class [K], int64: predicted, true, and both."""

    predicted: Tensor
    true: Tensor
    both: Tensor


def class_areas(
    logits: Tensor, masks: Tensor, mask_valid: Tensor, *, num_classes: int
) -> ClassAreas | None:
    """Areas of a clip over its frames with ground truth; None if it has none.

    logits: [T, K, H, W]. masks: [T, H, W] class index, 255 = ignored; binary: > 0 is foreground.
    mask_valid: [T] bool. num_classes: 1 = binary, which gives the areas of the one class.
    """
    if not bool(mask_valid.any()):
        return None
    logits_VKHW, masks_VHW = logits[mask_valid], masks[mask_valid].long()
    if num_classes == 1:
        labels_VHW, masks_VHW = (logits_VKHW[:, 0] > 0).long(), (masks_VHW > 0).long()
    else:
        labels_VHW = logits_VKHW.float().argmax(dim=1)
    areas = frame_class_areas(labels_VHW, masks_VHW, num_classes=max(num_classes, 2))
    first = 1 if num_classes == 1 else 0
    predicted, true, both = (a.sum(dim=0)[first:].long().cpu() for a in areas)
    return ClassAreas(predicted=predicted, true=true, both=both)


class PooledMeter:
    """IoU and F of a split whose pixels are counted together."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        zeros = torch.zeros(num_classes, dtype=torch.int64)
        self._sums = ClassAreas(predicted=zeros, true=zeros, both=zeros)
        self._num_clips = 0

    def add_clip(self, logits: Tensor, masks: Tensor, mask_valid: Tensor) -> None:
        """Add a clip; shapes as in :func:`class_areas`. One without ground truth adds nothing."""
        areas = class_areas(logits, masks, mask_valid, num_classes=self.num_classes)
        if areas is not None:
            self.add_areas(areas)

    def add_areas(self, areas: ClassAreas) -> None:
        """Add a clip's areas that another process counted."""
        self._sums = ClassAreas(
            predicted=self._sums.predicted + areas.predicted,
            true=self._sums.true + areas.true,
            both=self._sums.both + areas.both,
        )
        self._num_clips += 1

    def result(self) -> dict[str, Any]:
        """j, f and f1 in 0..1: means over the classes that occur; None for a class that does not.

        Raises ValueError if empty.
        """
        if not self._num_clips:
            raise ValueError("no clip with ground truth was added: there is nothing to report")
        predicted, true, both = (
            a.double() for a in (self._sums.predicted, self._sums.true, self._sums.both)
        )
        union = predicted + true - both
        seen = union > 0
        iou, f = both / union, f_measure(both / predicted, both / true)
        f1 = 2 * both / (predicted + true)
        j, mean_f, mean_f1 = (float(v[seen].mean()) if seen.any() else 0.0 for v in (iou, f, f1))
        return {
            "j": j,
            "f": mean_f,
            "f1": mean_f1,
            "per_class_iou": [
                value if occurs else None
                for value, occurs in zip(iou.tolist(), seen.tolist(), strict=True)
            ],
            "num_classes_seen": int(seen.sum()),
            "num_clips": self._num_clips,
            "protocol": "pooled",
        }
