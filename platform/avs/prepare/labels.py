"""The masks of a clip: read, brought to the network's size, and joined to their frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avs import storage
from avs.datasets import ClipSource, MaskKind
from avs.datasets.vpo import COCO_TO_VPO
from avs.errors import MediaError
from avs.media.coco import TrackMask, parse_track, read_segmentation
from avs.media.frames import read_image
from avs.media.masks import read_index_mask, read_mask, rgb_to_index
from avs.prepare.fitting import Fit
from avs.schema import IGNORE_INDEX

__all__ = ["ClipMasks", "TimedMasks", "read_masks"]

OFFICIAL_MASK_PX = (224, 224)
# Frames are one a second: a mask further than half a second from one belongs to none.
_MAX_DISTANCE_S = 0.5

_Mask = NDArray[np.uint8]
_Named = tuple[str, Callable[[], _Mask]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipMasks:
    """masks uint8 [N, S, S] of class indices; valid bool [N], False = no ground truth."""

    masks: _Mask
    valid: NDArray[np.bool_]


def read_masks(
    source: ClipSource,
    fit: Fit,
    *,
    frame_time_s: NDArray[np.float64],
    native_px: tuple[int, int],
    timed: TimedMasks | None = None,
) -> ClipMasks:
    """The masks of N frames; ``fit`` brings those of the picture's size to the network's.

    Mask k belongs to frame k, or with ``timed`` to the frame of its time. Raises MediaError: a mask
    that cannot be read, of a size that is neither the picture's nor the official 224 x 224, or with
    a class that the data set has not.
    """
    count = len(frame_time_s)
    named = _numbered(source, native_px) if timed is None else timed.of(frame_time_s)
    masks = np.zeros((count, *fit.size_px), np.uint8)
    official_px = native_px if fit.crop else OFFICIAL_MASK_PX  # cropping needs the same geometry
    valid = np.zeros(count, np.bool_)
    for k, (name, read) in named.items():
        mask = read()
        if mask.shape not in (native_px, official_px):
            h, w = mask.shape
            official = "" if fit.crop else "224x224 or "
            raise MediaError(
                f"mask {name} is {w}x{h} px; wanted {official}the picture's "
                f"{native_px[1]}x{native_px[0]}"
            )
        _check_classes(mask, source.num_classes, name)
        masks[k], valid[k] = fit.mask(mask), True
    return ClipMasks(masks=masks, valid=valid)


class TimedMasks:
    """The masks of a video that belong to times; nothing but a track is read before they are used.

    Asked for the frames of a video part by part, it knows in the end which masks no frame was near.
    """

    def __init__(self, source: ClipSource) -> None:
        self._masks = _timed(source)
        self._far = dict.fromkeys(range(len(self._masks)))

    def __len__(self) -> int:
        return len(self._masks)

    def of(self, frame_time_s: NDArray[np.float64]) -> dict[int, _Named]:
        """For each frame that has one near enough, the nearest mask."""
        chosen: dict[int, int] = {}
        for i, (time_s, _, _) in enumerate(self._masks):
            distance = np.abs(frame_time_s - time_s)
            k = int(distance.argmin())
            if distance[k] > _MAX_DISTANCE_S:
                continue
            self._far.pop(i, None)
            if k not in chosen or distance[k] < abs(frame_time_s[k] - self._masks[chosen[k]][0]):
                chosen[k] = i
        return {k: self._masks[i][1:] for k, i in chosen.items()}

    def warnings(self, name: str) -> list[str]:
        """What to say of the video ``name`` after its last part."""
        if not self._far:
            return []
        first_s = self._masks[next(iter(self._far))][0]
        return [
            f"{name}: {len(self._far)} masks lie more than {_MAX_DISTANCE_S} s from every sampled "
            f"frame and are left out, first the one at {first_s:g} s"
        ]


def _numbered(source: ClipSource, native_px: tuple[int, int]) -> dict[int, _Named]:
    """Name and reader of the mask of each labelled frame, by its number."""
    if source.instances:
        return {0: (source.clip_id, lambda: _draw_instances(source, native_px))}
    named = {k: uri for k, uri in enumerate(source.masks) if uri is not None}
    return {k: (uri, _reader(source, uri)) for k, uri in named.items()}


def _timed(source: ClipSource) -> list[tuple[float, str, Callable[[], _Mask]]]:
    """Time, name and reader of each mask: a track, whose masks pictures beside it replace."""
    uris = [uri for uri in source.masks if uri is not None]
    if source.mask_track is None:
        return [
            (t, uri, _reader(source, uri)) for t, uri in zip(source.mask_time_s, uris, strict=True)
        ]
    track = _read_track(source)
    if uris and len(uris) != len(track):
        raise MediaError(
            f"{source.mask_track} has {len(track)} masks, but {len(uris)} pictures lie beside it"
        )
    if uris:
        return [(m.time_s, u, _reader(source, u)) for m, u in zip(track, uris, strict=True)]
    return [(m.time_s, source.mask_track, _track_reader(source, m)) for m in track]


def _read_track(source: ClipSource) -> list[TrackMask]:
    assert source.mask_track is not None
    data = storage.read_bytes(source.mask_track)
    try:
        return parse_track(json.loads(data), video=source.clip_id)
    except (MediaError, ValueError, RecursionError) as error:
        raise MediaError(f"{source.mask_track}: {error}") from None


def _reader(source: ClipSource, uri: str) -> Callable[[], _Mask]:
    def read() -> _Mask:
        try:
            return _decode(storage.read_bytes(uri), source.mask_kind)
        except MediaError as error:
            raise MediaError(f"mask {uri}: {error}") from None

    return read


def _decode(data: bytes, kind: MaskKind) -> _Mask:
    if kind is MaskKind.BINARY:
        return read_mask(data)
    if kind is MaskKind.RGB:
        return rgb_to_index(read_image(data))
    mask = read_index_mask(data)
    if kind is MaskKind.FOREGROUND:
        return (mask > 0).astype(np.uint8)
    return _coco_table()[mask] if kind is MaskKind.COCO else mask


def _coco_table() -> _Mask:
    """COCO category id to class index; 255 stays, objects of no class are background."""
    table = np.zeros(256, np.uint8)
    table[list(COCO_TO_VPO)] = list(COCO_TO_VPO.values())
    table[IGNORE_INDEX] = IGNORE_INDEX
    return table


def _draw_instances(source: ClipSource, size_px: tuple[int, int]) -> _Mask:
    mask = np.zeros(size_px, np.uint8)
    for instance in source.instances:
        inside = read_segmentation(json.loads(instance.segmentation), size_px)
        mask[inside > 0] = instance.class_index
    return mask


def _track_reader(source: ClipSource, mask: TrackMask) -> Callable[[], _Mask]:
    def class_index(category: str) -> int:
        if source.num_classes == 2:
            return 1
        if category not in source.class_names:
            raise MediaError(f"category {category!r} is not in label2idx.json")
        return source.class_names.index(category)

    def read() -> _Mask:
        try:
            return mask.dense(class_index)
        except MediaError as error:
            raise MediaError(f"{source.mask_track} at {mask.time_s:g} s: {error}") from None

    return read


def _check_classes(mask: _Mask, num_classes: int, name: str) -> None:
    highest = int(mask[mask != IGNORE_INDEX].max(initial=0))
    if highest >= num_classes:
        raise MediaError(f"mask {name} holds class {highest}; the data set has {num_classes}")
