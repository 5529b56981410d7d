"""AVSBench-semantic's metrics, equal to the official numbers: class scores summed over frames.

Every frame counts alike, so unlike the binary figures these do not depend on the test batch, and
sums of several processes add up. A class counts where it is predicted or true, not by its area.
Values are fractions in 0..1. No global state; the meter lives on the CPU.

Shapes: N frames, T frames of a clip, H x W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avs.metrics.avsbench import PROTOCOL, f_measure

__all__ = ["IGNORE_INDEX", "SemanticMeter", "SemanticSums", "frame_class_areas", "semantic_sums"]

IGNORE_INDEX = 255


@dataclass(kw_only=True, slots=True)
class SemanticSums:
    """Sums over frames per class [K], float64: IoU, F, and frames in which the class occurs."""

    iou: Tensor
    f: Tensor
    count: Tensor
    num_frames: int


def semantic_sums(pred: Tensor, target: Tensor, *, num_classes: int) -> SemanticSums:
    """Per-frame class scores, summed over frames (AVSBench-semantic protocol).

    pred: labels [N, H, W] or logits [N, K, H, W]. target: [N, H, W] class index, 255 = ignored.
    A class counts in a frame where it is predicted or true, so a spurious class adds a zero.
    """
    labels_NHW = pred.float().softmax(dim=1).argmax(dim=1) if pred.dim() == 4 else pred.long()
    pred_NK, true_NK, inter_NK = frame_class_areas(labels_NHW, target, num_classes=num_classes)
    union_NK = pred_NK + true_NK - inter_NK
    iou_NK = inter_NK / (union_NK + 2.220446049250313e-16)
    f_NK = f_measure(inter_NK / pred_NK, inter_NK / true_NK)
    return SemanticSums(
        iou=iou_NK.double().sum(dim=0).cpu(),
        f=f_NK.double().sum(dim=0).cpu(),
        count=(union_NK > 0).double().sum(dim=0).cpu(),
        num_frames=len(target),
    )


def frame_class_areas(
    labels: Tensor, target: Tensor, *, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of each class in each frame, [N, K] float32: predicted, true, and both.

    labels, target: [N, H, W] class index; where the target is 255, nothing counts.
    """
    labels_NHW, target_NHW = labels.long(), target.long()
    kept_NHW = target_NHW != IGNORE_INDEX
    for name, values in ("pred", labels_NHW), ("target", target_NHW[kept_NHW]):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(f"{name} holds a class outside 0..{num_classes - 1}")
    return (
        _class_areas(labels_NHW, kept_NHW, num_classes),
        _class_areas(target_NHW, kept_NHW, num_classes),
        _class_areas(target_NHW, kept_NHW & (labels_NHW == target_NHW), num_classes),
    )


class SemanticMeter:
    """mIoU and F-score of AVSBench-semantic: per class the mean over frames, then over classes."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        zeros = torch.zeros(num_classes, dtype=torch.float64)
        self._sums = SemanticSums(iou=zeros, f=zeros, count=zeros, num_frames=0)

    def add_clip(self, logits: Tensor, masks: Tensor, _mask_valid: Tensor) -> None:
        """Add a clip: [T, K, H, W], [T, H, W], [T]. Frames without truth count too, officially."""
        self.add(logits, masks)

    def add(self, pred: Tensor, target: Tensor) -> None:
        """Add frames; shapes as in :func:`semantic_sums`."""
        self.add_sums(semantic_sums(pred, target, num_classes=self.num_classes))

    def add_sums(self, sums: SemanticSums) -> None:
        """Add sums that another process made."""
        self._sums = SemanticSums(
            iou=self._sums.iou + sums.iou,
            f=self._sums.f + sums.f,
            count=self._sums.count + sums.count,
            num_frames=self._sums.num_frames + sums.num_frames,
        )

    def result(self) -> dict[str, Any]:
        """Means in 0..1 and the per-class values; classes never seen count as 0.

        miou_official_no_bg is what the official code calls so: it drops the LAST class, not the
        background. miou_no_background drops class 0. Raises ValueError if empty.
        """
        if not self._sums.num_frames:
            raise ValueError("no frame was added: there is nothing to report")
        iou_K = (self._sums.iou / self._sums.count).nan_to_num(0.0)
        f_K = (self._sums.f / self._sums.count).nan_to_num(0.0)
        return {
            "miou": float(iou_K.mean()),
            "fscore": float(f_K.mean()),
            "miou_official_no_bg": float(iou_K[:-1].mean()),
            "miou_no_background": float(iou_K[1:].mean()),
            "per_class_iou": iou_K.tolist(),
            "per_class_fscore": f_K.tolist(),
            "per_class_count": self._sums.count.tolist(),
            "num_frames": self._sums.num_frames,
            "protocol": PROTOCOL,
        }


def _class_areas(labels_NHW: Tensor, kept_NHW: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class in each frame [N, K] float32, among the kept ones."""
    num_frames = len(labels_NHW)
    offset_N11 = torch.arange(num_frames, device=labels_NHW.device).view(-1, 1, 1) * num_classes
    bins = (offset_N11 + labels_NHW)[kept_NHW]
    return torch.bincount(bins, minlength=num_frames * num_classes).view(num_frames, -1).float()
