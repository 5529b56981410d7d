"""AVSBench's binary metrics, equal to the official numbers: per-frame blocks and their aggregation.

The official J and F depend on the test batch size (a mean of batch values, F's best threshold
chosen per batch), so the meters take the batch size in clips and report it. F counts come from one
histogram per frame instead of 255 passes: the counts are the same integers. Values are fractions
in 0..1. No global state; the meters live on the CPU.

Shapes: N frames, T frames of a clip, H x W pixels, K = 255 thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "NUM_THRESHOLDS",
    "PROTOCOL",
    "BinaryMeter",
    "ClipMetrics",
    "clip_metrics",
    "f_curve",
    "f_measure",
    "f_score",
    "frame_iou",
    "mask_iou",
    "nonempty",
]

NUM_THRESHOLDS = 255
BETA_SQUARED = 0.3
PROTOCOL = "avsbench"


@dataclass(kw_only=True, slots=True)
class ClipMetrics:
    """Per frame with ground truth: iou [T], curve [T, 255], nonempty [T] bool."""

    iou: Tensor
    curve: Tensor
    nonempty: Tensor


def frame_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of each frame [N] float32; an empty target scores its share of background pixels.

    logits: [N, H, W], foreground where sigmoid > 0.5. target: [N, H, W], > 0 is foreground.
    """
    pred_NHW = logits.float().sigmoid() > 0.5
    true_NHW = target > 0
    inter_N = (pred_NHW & true_NHW).sum(dim=(1, 2))
    union_N = (pred_NHW | true_NHW).sum(dim=(1, 2))
    num_pixels = pred_NHW[0].numel() if len(pred_NHW) else 0
    empty_N = ~nonempty(target)
    inter_N = torch.where(empty_N, num_pixels - union_N, inter_N)
    union_N = torch.where(empty_N, torch.full_like(union_N, num_pixels), union_N)
    return inter_N.float() / (union_N.float() + 1e-7)


def nonempty(target: Tensor) -> Tensor:
    """Frames [N] bool with any foreground; target: [N, H, W]."""
    return (target > 0).flatten(1).any(dim=1)


def f_curve(logits: Tensor, target: Tensor) -> Tensor:
    """F (beta^2 = 0.3) of each frame at 255 thresholds: [N, 255] float32, 0 where undefined.

    logits, target: [N, H, W] as in :func:`frame_iou`. Thresholds: linspace(0, 1 - 1e-10, 255).
    """
    thresholds = torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS, device=logits.device)
    prob_NP = logits.float().sigmoid().flatten(1).contiguous()
    true_NP = (target > 0).flatten(1)
    num_passed_NP = torch.searchsorted(thresholds, prob_NP, right=True)
    num_bins = NUM_THRESHOLDS + 1
    offset_N1 = torch.arange(len(prob_NP), device=logits.device).unsqueeze(1) * 2 * num_bins
    bins_NP = offset_N1 + true_NP * num_bins + num_passed_NP
    counts = torch.bincount(bins_NP.flatten(), minlength=len(prob_NP) * 2 * num_bins)
    # reverse cumulative sum: pixels that pass threshold k have k + 1 or more thresholds below them
    passed_N2K = counts.view(-1, 2, num_bins).flip(2).cumsum(2).flip(2)[:, :, 1:]
    true_positive_NK = passed_N2K[:, 1].float()
    precision_NK = true_positive_NK / (passed_N2K.sum(dim=1).float() + 1e-20)
    recall_NK = true_positive_NK / (true_NP.sum(dim=1, keepdim=True).float() + 1e-20)
    return f_measure(precision_NK, recall_NK)


def mask_iou(logits: Tensor, target: Tensor) -> float:
    """J of one batch of frames: the mean of :func:`frame_iou`."""
    return float(frame_iou(logits, target).mean())


def f_score(logits: Tensor, target: Tensor) -> float:
    """F of one batch of frames: best threshold of the mean curve; 0 if every target is empty."""
    return _batch_f(f_curve(logits, target), nonempty(target))


def clip_metrics(logits: Tensor, masks: Tensor, mask_valid: Tensor) -> ClipMetrics | None:
    """The per-frame values of one clip over its frames with ground truth; None if it has none.

    logits: [T, H, W] (or [T, 1, H, W]); masks: [T, H, W]; mask_valid: [T] bool.
    """
    logits_THW = logits.squeeze(1) if logits.dim() == 4 else logits
    logits_VHW, masks_VHW = logits_THW[mask_valid], masks[mask_valid]
    if not len(logits_VHW):
        return None
    return ClipMetrics(
        iou=frame_iou(logits_VHW, masks_VHW).cpu(),
        curve=f_curve(logits_VHW, masks_VHW).cpu(),
        nonempty=nonempty(masks_VHW).cpu(),
    )


class BinaryMeter:
    """J and F as AVSBench's test script prints them: a value per batch of clips, then their mean.

    Add clips in the order of the metadata file. ``batch_size_clips`` is 4 in AVSBench's test.sh.
    """

    def __init__(self, batch_size_clips: int) -> None:
        if batch_size_clips < 1:
            raise ValueError(f"batch_size_clips={batch_size_clips}: at least 1")
        self.batch_size_clips = batch_size_clips
        self._open: list[ClipMetrics] = []
        self._batches: list[tuple[float, float]] = []
        self._num_clips = 0

    def add_clip(self, logits: Tensor, masks: Tensor, mask_valid: Tensor) -> None:
        """Add a clip; shapes as in :func:`clip_metrics`. One without ground truth adds nothing."""
        scored = clip_metrics(logits, masks, mask_valid)
        if scored is not None:
            self.add(scored.iou, scored.curve, scored.nonempty)

    def add(self, iou: Tensor, curve: Tensor, nonempty: Tensor) -> None:
        """Add a scored clip: iou [T], curve [T, 255], nonempty [T]; T is at least 1."""
        if not len(iou):
            raise ValueError("a clip without ground truth cannot be scored: leave it out")
        self._open.append(ClipMetrics(iou=iou, curve=curve, nonempty=nonempty.bool()))
        self._num_clips += 1
        if len(self._open) == self.batch_size_clips:
            self._batches.append(_batch_values(self._open))
            self._open = []

    def result(self) -> dict[str, Any]:
        """j and f in 0..1, with num_clips, batch_size and protocol. Raises ValueError if empty."""
        batches = self._batches + ([_batch_values(self._open)] if self._open else [])
        if not batches:
            raise ValueError("no clip with ground truth was added: there is nothing to report")
        return {
            "j": sum(j for j, _ in batches) / len(batches),
            "f": sum(f for _, f in batches) / len(batches),
            "num_clips": self._num_clips,
            "batch_size": self.batch_size_clips,
            "protocol": PROTOCOL,
        }


def f_measure(precision: Tensor, recall: Tensor) -> Tensor:
    """F with beta^2 = 0.3; 0 where it is undefined."""
    value = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return torch.where(value.isnan(), torch.zeros_like(value), value)


def _batch_f(curve_NK: Tensor, nonempty_N: Tensor) -> float:
    return float(curve_NK[nonempty_N].mean(dim=0).max()) if nonempty_N.any() else 0.0


def _batch_values(clips: list[ClipMetrics]) -> tuple[float, float]:
    iou_N = torch.cat([clip.iou for clip in clips])
    curve_NK = torch.cat([clip.curve for clip in clips])
    nonempty_N = torch.cat([clip.nonempty for clip in clips])
    return float(iou_N.mean()), _batch_f(curve_NK, nonempty_N)
