"""Masks over the frames of a video: each holds until the next one, and is drawn when it is shown.

Of a long video there are many masks, and of those in a file only the run-lengths fit in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.coco import parse_track
from avs.media.sampling import MAX_SAMPLES_PER_S, SAMPLE_OFFSET_S

__all__ = ["HeldMasks", "StoredTrack", "read_stored_track"]

_EPSILON_S = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldMasks:
    """Masks uint8 [H, W], and the times [N] in seconds from the first frame since which they hold.

    ``silent``: labels beside each mask, of objects that do not sound.
    """

    masks: Sequence[NDArray[np.uint8]]
    from_s: NDArray[np.float64]
    silent: Sequence[NDArray[np.uint8]] | None = None

    @classmethod
    def hold(
        cls,
        masks: Sequence[NDArray[np.uint8]],
        *,
        mask_time_s: Sequence[float],
        hold_before_s: float,
        silent: Sequence[NDArray[np.uint8]] | None = None,
    ) -> Self:
        """Masks that hold from ``hold_before_s`` before their times; raises ValueError."""
        if len(masks) != len(mask_time_s):
            raise ValueError(f"{len(masks)} masks but {len(mask_time_s)} times")
        from_s = np.asarray(mask_time_s, np.float64) - hold_before_s
        return cls(masks=masks, from_s=from_s, silent=silent)

    def index_at(self, time_s: float) -> int:
        """Which mask holds at a time, -1 before the first."""
        return int(np.searchsorted(self.from_s, time_s + _EPSILON_S, side="right")) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTrack:
    """The masks of a ``masks.json``: class indices uint8 [h, w], drawn when asked for, and the
    times [N] of the frames that they were made of, in seconds."""

    held: HeldMasks
    time_s: tuple[float, ...]
    num_classes: int


def read_stored_track(track: str, *, video: str) -> StoredTrack:
    """The ``masks.json`` at ``track``; ``video`` chooses among several. Raises MediaError."""
    plain = json.loads(Path(track).read_bytes())
    masks = parse_track(plain, video=video)
    names = [str(name) for name in plain["classes"]]
    time_s = tuple(mask.time_s for mask in masks)
    held = HeldMasks.hold(
        _LazyMasks(len(masks), lambda index: masks[index].dense(names.index)),
        mask_time_s=time_s,
        hold_before_s=SAMPLE_OFFSET_S / _masks_per_s(plain),
        silent=_LazyMasks(len(masks), lambda index: masks[index].silent_labels()),
    )
    return StoredTrack(held=held, time_s=time_s, num_classes=len(names))


def _masks_per_s(plain: dict[str, Any]) -> int:
    rate = plain.get("masks_per_s", 1)  # files of earlier versions have one a second
    if type(rate) is not int or not 1 <= rate <= MAX_SAMPLES_PER_S:
        raise MediaError(f"masks_per_s={rate} is no number of masks from 1 to {MAX_SAMPLES_PER_S}")
    return rate


class _LazyMasks(Sequence[NDArray[np.uint8]]):
    """Masks that are drawn when asked for; consecutive frames ask for the same one."""

    def __init__(self, count: int, draw: Callable[[int], NDArray[np.uint8]]) -> None:
        self._count = count
        self._mask = lru_cache(maxsize=2)(draw)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        if isinstance(index, slice):
            return [self._mask(i) for i in range(*index.indices(self._count))]
        return self._mask(index)
