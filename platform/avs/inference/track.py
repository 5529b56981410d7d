"""The masks of one video in memory: run-length encoded, so an hour of 1080p stays small."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from avs.errors import MediaError
from avs.inference.objects import VisibleObject
from avs.media.frames import MAX_FRAME_PIXELS
from avs.media.masks import Rle, decode_rle, encode_rle
from avs.media.sampling import MAX_SAMPLES_PER_S
from avs.media.video import DecodedVideo

__all__ = ["NO_SOUND", "MaskTrack", "TimedMask"]

FORMAT_VERSION = 1
NO_SOUND = "no sound track: treated as silence"  # a warning


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
    """All masks of a video at its displayed size (h, w), ``masks_per_s`` of them for a second."""

    size_px: tuple[int, int]
    duration_s: float
    class_names: tuple[str, ...]
    masks: list[TimedMask]
    warnings: list[str]
    masks_per_s: int = 1

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
    def empty(cls, class_names: tuple[str, ...], *, masks_per_s: int = 1) -> Self:
        """A track whose video is still to come."""
        return cls(
            size_px=(0, 0),
            duration_s=0.0,
            class_names=class_names,
            masks=[],
            warnings=[],
            masks_per_s=masks_per_s,
        )

    @classmethod
    def from_json(cls, plain: Any) -> Self:
        """The track that :meth:`to_json` wrote, from an answer of Serve or a ``masks.json``.

        Raises MediaError for what is none. Run-lengths are read when a mask is asked for:
        :meth:`mask` too raises it, where they are damaged.
        """
        try:
            return cls._checked(plain)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MediaError(f"this is no track of masks ({error!r})") from None

    @classmethod
    def _checked(cls, plain: dict[str, Any]) -> Self:
        if plain["format"] != FORMAT_VERSION:
            raise ValueError(f"format={plain['format']}, known is {FORMAT_VERSION}")
        size_px = (_whole(plain, "height"), _whole(plain, "width"))
        if size_px[0] * size_px[1] > MAX_FRAME_PIXELS:
            raise ValueError(f"masks of {size_px[0]} x {size_px[1]} pixels are too large")
        names = _texts(plain, "classes")
        return cls(
            size_px=size_px,
            duration_s=_number(plain, "duration_s"),
            class_names=names,
            masks=[_timed_mask(mask, size_px, len(names)) for mask in plain["masks"]],
            warnings=list(_texts(plain, "warnings")),
            masks_per_s=_rate(plain),
        )

    def note(self, video: DecodedVideo) -> None:
        """Take over what a decoded piece of the video tells of the whole."""
        self.size_px = (video.info.height_px, video.info.width_px)
        self.duration_s = video.info.duration_s
        self.warnings += [w for w in video.warnings if w not in self.warnings]

    def add(
        self, time_s: float, mask: np.ndarray, visible: list[VisibleObject] | None = None
    ) -> None:
        """Append the mask uint8 [h, w] of class indices at ``time_s``, and what is visible."""
        highest = int(mask.max(initial=0))  # np.unique takes longer than the codes of the mask
        present = [c for c in range(1, highest + 1) if (mask == c).any()]
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
            "masks_per_s": self.masks_per_s,
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


def _timed_mask(plain: dict[str, Any], size_px: tuple[int, int], num_classes: int) -> TimedMask:
    rles = {
        _whole(one, "class", most=num_classes - 1): _rle(one, size_px) for one in plain["objects"]
    }
    visible = None
    if "visible" in plain:
        visible = [
            VisibleObject(
                category=str(one["category"]),
                score=_number(one, "score"),
                sounding=_number(one, "sounding"),
                rle=_rle(one, size_px),
            )
            for one in plain["visible"]
        ]
    return TimedMask(_number(plain, "time_s"), rles, visible)


def _rate(plain: dict[str, Any]) -> int:
    if "masks_per_s" not in plain:
        return 1  # files of earlier versions
    return _whole(plain, "masks_per_s", most=MAX_SAMPLES_PER_S)


def _rle(plain: dict[str, Any], size_px: tuple[int, int]) -> Rle:
    rle = plain["rle"]
    if rle["size"] != list(size_px) or not isinstance(rle["counts"], str):
        raise ValueError(f"run-lengths that are not of {size_px[0]} x {size_px[1]} pixels")
    return Rle(size=list(size_px), counts=rle["counts"])


def _whole(plain: dict[str, Any], key: str, *, most: int = MAX_FRAME_PIXELS) -> int:
    value = plain[key]
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{key}={value!r:.40}")
    return value


def _number(plain: dict[str, Any], key: str) -> float:
    value = plain[key]
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{key}={value!r:.40}")
    return float(value)


def _texts(plain: dict[str, Any], key: str) -> tuple[str, ...]:
    values = plain[key]
    if type(values) is not list or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key}={values!r:.40}")
    return tuple(values)
