"""The masks of one video in memory: run-length encoded, so an hour of 1080p stays small."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from avs.inference.visible import VisibleObject
from avs.media.masks import Rle, decode_rle, encode_rle

__all__ = ["MaskTrack", "TimedMask"]

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class TimedMask:
    """The mask at ``time_s``: COCO run-lengths by class index (background is what is left).

    visible: all objects that the model sees there, silent ones too; None where nobody asked.
    """

    time_s: float
    rles: dict[int, Rle]
    visible: list[VisibleObject] | None = None


@dataclass(kw_only=True, slots=True)
class MaskTrack:
    """All masks of a video at its displayed size (h, w); mask k belongs to second k."""

    size_px: tuple[int, int]
    duration_s: float
    class_names: tuple[str, ...]
    masks: list[TimedMask]
    warnings: list[str]

    @classmethod
    def from_masks(
        cls,
        masks: Iterable[np.ndarray],
        *,
        time_s: list[float],
        size_px: tuple[int, int],
        duration_s: float,
        class_names: tuple[str, ...],
        warnings: list[str],
    ) -> Self:
        """Encode uint8 [h, w] masks of class indices as they come."""
        track = cls(
            size_px=size_px,
            duration_s=duration_s,
            class_names=class_names,
            masks=[],
            warnings=warnings,
        )
        for mask, t in zip(masks, time_s, strict=True):
            track.add(t, mask)
        return track

    @classmethod
    def empty(cls, class_names: tuple[str, ...]) -> Self:
        """A track whose video is still to come."""
        return cls(size_px=(0, 0), duration_s=0.0, class_names=class_names, masks=[], warnings=[])

    def add(
        self, time_s: float, mask: np.ndarray, visible: list[VisibleObject] | None = None
    ) -> None:
        """Append the mask uint8 [h, w] of class indices at ``time_s``, and what is visible."""
        present = [int(c) for c in np.unique(mask) if c]
        rles = {c: encode_rle(mask == c) for c in present}
        self.masks.append(TimedMask(time_s, rles, visible))

    def __len__(self) -> int:
        return len(self.masks)

    def mask(self, index: int) -> np.ndarray:
        """Mask ``index`` as uint8 [h, w] of class indices."""
        dense = np.zeros(self.size_px, np.uint8)
        for category, rle in self.masks[index].rles.items():
            dense[decode_rle(rle).astype(bool)] = category
        return dense

    def to_json(self) -> dict[str, Any]:
        """The ``rle_json`` form, as written by the bucket job and answered by Serve."""
        return {
            "format": FORMAT_VERSION,
            "height": self.size_px[0],
            "width": self.size_px[1],
            "duration_s": self.duration_s,
            "classes": list(self.class_names),
            "warnings": self.warnings,
            "masks": [self._mask_json(m) for m in self.masks],
        }

    def _mask_json(self, mask: TimedMask) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "time_s": mask.time_s,
            "objects": [
                {"class": c, "category": self.class_names[c], "rle": rle}
                for c, rle in mask.rles.items()
            ],
        }
        if mask.visible is not None:
            plain["visible"] = [one.to_json() for one in mask.visible]
        return plain
