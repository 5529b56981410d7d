"""An object of a picture, sounding or silent, as it is written; how it is found is in
:mod:`avs.inference.visible`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avs.media.coco import SOUNDS
from avs.media.masks import Rle

__all__ = ["VisibleObject"]

_DIGITS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class VisibleObject:
    """score: how sure the model is that the object is there; sounding: how much it sounds at this
    time; 0..1 each. rle: its mask, COCO run-lengths."""

    category: str
    score: float
    sounding: float
    rle: Rle

    @property
    def sounds(self) -> bool:
        """Whether it counts as sounding: of what masks.json tells, as the overlay does."""
        return round(self.sounding, _DIGITS) >= SOUNDS

    def to_json(self) -> dict[str, Any]:
        """As in masks.json."""
        return {
            "category": self.category,
            "score": round(self.score, _DIGITS),
            "sounding": round(self.sounding, _DIGITS),
            "rle": self.rle,
        }
