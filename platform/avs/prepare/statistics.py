"""Statistics of prepared clips: sums per shard, kept in its record, and merged for the manifest.

Pixels and masks are summed as whole numbers, so the order of merging cannot change them; log-mel
sums are merged in the order of the plan. Padded frames, and masks without ground truth, are left
out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from avs.prepare.records import ShardRecord
from avs.schema import IGNORE_INDEX, Clip

__all__ = ["ClipSums", "merge_statistics"]

Sums = dict[str, float]


class ClipSums:
    """Sums over clips that come one by one."""

    def __init__(self) -> None:
        self._total: Sums = {}
        self._by_category: dict[str, Sums] = {}

    def add(self, clip: Clip) -> None:
        """Add one clip to the total and to those of its categories."""
        sums = _clip_sums(clip)
        _add(self._total, sums)
        for category in dict.fromkeys(clip.categories):
            _add(self._by_category.setdefault(category, {}), sums)

    def as_dict(self) -> dict[str, Any]:
        """``{"all": sums, "by_category": {name: sums}}``"""
        return {"all": self._total, "by_category": self._by_category}


def merge_statistics(records: Iterable[ShardRecord]) -> dict[str, Any]:
    """Statistics by split, over all clips and by category.

    Each holds ``num_clips`` (rows), ``num_masks``, ``mean_mask_area`` (share of the picture),
    ``empty_mask_share``, ``pixels`` and ``log_mel`` with ``mean`` and ``std``. What no clip has is
    None.
    """
    merged: dict[str, dict[str, Any]] = {}
    for record in records:
        if not record.statistics.get("all"):
            continue
        split = merged.setdefault(record.split, {"all": {}, "by_category": {}})
        _add(split["all"], record.statistics["all"])
        for category, sums in record.statistics["by_category"].items():
            _add(split["by_category"].setdefault(category, {}), sums)
    return {
        split: {
            **_summary(sums["all"]),
            "by_category": {k: _summary(v) for k, v in sorted(sums["by_category"].items())},
        }
        for split, sums in sorted(merged.items())
    }


def _clip_sums(clip: Clip) -> Sums:
    frames = clip.frames[clip.frame_valid]
    log_mel = clip.log_mel[clip.frame_valid].astype(np.float64)
    masks = clip.masks[clip.mask_valid]
    object_px = ((masks != 0) & (masks != IGNORE_INDEX)).sum(axis=(1, 2))
    squares = frames.astype(np.uint16)
    squares *= squares  # 255 * 255 fits into 16 bits
    return {
        "clips": 1,
        "masks": len(masks),
        "empty_masks": int((object_px == 0).sum()),
        "object_px": int(object_px.sum()),
        "mask_px": masks.size,
        "pixels": frames.size,
        "pixels_sum": int(frames.sum(dtype=np.uint64)),
        "pixels_squares": int(squares.sum(dtype=np.uint64)),
        "log_mel": log_mel.size,
        "log_mel_sum": float(log_mel.sum()),
        "log_mel_squares": float(np.square(log_mel).sum()),
    }


def _add(total: Sums, sums: Sums) -> None:
    for key, value in sums.items():
        total[key] = total.get(key, 0) + value


def _summary(sums: Sums) -> dict[str, Any]:
    masks, mask_px = sums["masks"], sums["mask_px"]
    return {
        "num_clips": sums["clips"],
        "num_masks": masks,
        "mean_mask_area": sums["object_px"] / mask_px if mask_px else None,
        "empty_mask_share": sums["empty_masks"] / masks if masks else None,
        "pixels": _mean_and_std(sums, "pixels"),
        "log_mel": _mean_and_std(sums, "log_mel"),
    }


def _mean_and_std(sums: Sums, key: str) -> dict[str, float] | None:
    count = sums[key]
    if not count:
        return None
    mean = sums[f"{key}_sum"] / count
    variance = sums[f"{key}_squares"] / count - mean * mean
    return {"mean": mean, "std": math.sqrt(max(variance, 0.0))}
