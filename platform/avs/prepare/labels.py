"""The masks of a clip: read, brought to the network's size, and joined to their frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
from avs.media.sampling import SAMPLE_OFFSET_S
from avs.prepare.fitting import Fit
from avs.schema import IGNORE_INDEX

__all__ = ["ClipMasks", "TimedMasks", "read_masks"]

OFFICIAL_MASK_PX = (224, 224)

_Mask = NDArray[np.uint8]
_Named = tuple[str, Callable[[], _Mask]]
_Timed = tuple[float, str, Callable[[], _Mask]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipMasks:
    """masks uint8 [N, S, S] of class indices; valid bool [N], False = no ground truth."""

    masks: _Mask
    valid: NDArray[np.bool_]


def read_masks(
    source: ClipSource,
    fit: Fit,
    *,
    seconds: Sequence[int],
    native_px: tuple[int, int],
    timed: TimedMasks | None = None,
) -> ClipMasks:
    """The masks of N frames; ``fit`` brings those of the picture's size to the network's.

    Mask k belongs to frame k, or with ``timed`` to the frame of its second. Raises MediaError: a
    mask that cannot be read, of a size that is neither the picture's nor the official 224 x 224, or
    with a class that the data set has not.
    """
    count = len(seconds)
    named = _numbered(source, native_px) if timed is None else timed.of(seconds)
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
    """The masks of a video that belong to times, one for each second that has any.

    Nothing but a track is read before they are used. Asked for the seconds of a video part by part,
    it knows in the end which masks were not.
    """

    def __init__(self, source: ClipSource) -> None:
        self._of_second: dict[int, _Timed] = {}
        self._surplus: list[float] = []
        for timed in sorted(_timed(source), key=lambda m: m[0]):
            second = int(timed[0])
            other = self._of_second.get(second)
            if other is not None:
                # one frame a second is sampled: the one nearest to where others are sampled too
                timed, other = sorted((timed, other), key=_from_usual)
                self._surplus.append(other[0])
            self._of_second[second] = timed
        self._unused = dict.fromkeys(self._of_second)

    def __len__(self) -> int:
        return len(self._of_second)

    def at_s(self, second: int) -> float:
        """When to sample a second: at the time of its mask."""
        timed = self._of_second.get(second)
        return second + SAMPLE_OFFSET_S if timed is None else timed[0]

    def of(self, seconds: Sequence[int]) -> dict[int, _Named]:
        """Name and reader of the mask of each of these seconds that has one, by position."""
        named = {}
        for position, second in enumerate(seconds):
            if second in self._of_second:
                self._unused.pop(second, None)
                named[position] = self._of_second[second][1:]
        return named

    def warnings(self, name: str) -> list[str]:
        """What to say of the video ``name`` after its last part."""
        late = [self._of_second[second][0] for second in self._unused]
        told = []
        for times_s, why in (
            (late, "lie after its last whole second"),
            (sorted(self._surplus), "share a second with another, and one a second is used"),
        ):
            if times_s:
                first = f"first the one at {times_s[0]:g} s"
                told.append(f"{name}: masks that {why}: {len(times_s)}, {first}")
        return told


def _from_usual(timed: _Timed) -> float:
    return abs(timed[0] % 1 - SAMPLE_OFFSET_S)


def _numbered(source: ClipSource, native_px: tuple[int, int]) -> dict[int, _Named]:
    """Name and reader of the mask of each labelled frame, by its number."""
    if source.instances:
        return {0: (source.clip_id, lambda: _draw_instances(source, native_px))}
    named = {k: uri for k, uri in enumerate(source.masks) if uri is not None}
    return {k: (uri, _reader(source, uri)) for k, uri in named.items()}


def _timed(source: ClipSource) -> list[_Timed]:
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
