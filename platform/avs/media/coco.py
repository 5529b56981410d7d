"""COCO segmentations, and JSON files of timed masks: the platform's own and COCO-video.

Both kinds of files come from elsewhere and are checked before anything is decoded. A COCO-video
file (YouTube-VIS) names no times: the number in a frame's file name, else its place in the list, is
taken as the frame's index at ``fps`` of the video; without ``fps`` entry k belongs to second k,
like the masks that the platform writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from avs.errors import MediaError
from avs.media.frames import MAX_FRAME_PIXELS
from avs.media.masks import Rle, decode_rle

__all__ = ["SECOND_OFFSET_S", "SOUNDS", "TrackMask", "parse_track", "read_segmentation"]

# One mask a second belongs to the frame at the end of that second, as AVSBench samples them.
SECOND_OFFSET_S = 15 / 16
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)

SOUNDS = 0.5  # how much an object sounds at least, to count as sounding
MAX_SILENT = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackMask:
    """The mask of a track at ``time_s``: (category, COCO segmentation) from back to front.

    silent: COCO segmentations of what is visible and does not sound, where the file tells it.
    """

    time_s: float
    size_px: tuple[int, int]
    objects: tuple[tuple[str, Any], ...]
    silent: tuple[Any, ...] = ()

    def dense(self, class_index: Callable[[str], int]) -> NDArray[np.uint8]:
        """uint8 [h, w] of class indices; ``class_index`` may refuse a category by MediaError."""
        mask = np.zeros(self.size_px, np.uint8)
        for category, segmentation in self.objects:
            mask[read_segmentation(segmentation, self.size_px) > 0] = class_index(category)
        return mask

    def silent_labels(self) -> NDArray[np.uint8]:
        """uint8 [h, w]: 1, 2, ... where a silent object is, 0 elsewhere.

        Smaller ones lie on larger ones, so that none is hidden whole by another.
        """
        labels = np.zeros(self.size_px, np.uint8)
        masks = [read_segmentation(one, self.size_px) > 0 for one in self.silent[:MAX_SILENT]]
        for place in sorted(range(len(masks)), key=lambda k: -int(masks[k].sum())):
            labels[masks[place]] = place + 1
        return labels


def read_segmentation(segmentation: Any, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Binary mask, uint8 [h, w], of a COCO segmentation: polygons or a run-length code.

    Polygons are drawn with whole pixels, border included; holes are not known to COCO polygons.
    Raises MediaError.
    """
    if isinstance(segmentation, dict):
        code = Rle(size=segmentation.get("size", []), counts=segmentation.get("counts", ""))
        mask = decode_rle(code)
        if mask.shape != tuple(size_px):
            raise MediaError(f"a run-length code is of size {mask.shape}, the picture of {size_px}")
        return mask
    image = Image.new("L", (size_px[1], size_px[0]))
    try:
        for polygon in segmentation:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
            if len(points) < 3 or not np.isfinite(points).all():
                raise ValueError(f"a polygon of {len(points)} points")
            limit = 4.0 * max(size_px)
            corners = np.clip(points - 0.5, -limit, limit)
            ImageDraw.Draw(image).polygon([tuple(p) for p in corners.tolist()], fill=1)
    except _MALFORMED as error:
        raise MediaError(f"not a COCO segmentation ({error})") from None
    return np.array(image)


def parse_track(plain: Any, *, video: str) -> list[TrackMask]:
    """The timed masks of a parsed JSON file, in the order of time.

    ``plain`` is ``rle_json`` as the platform writes it, or COCO-video; of several videos in it the
    one whose name, or the folder of whose frames, is the stem of ``video`` is taken.
    Raises MediaError.
    """
    try:
        if isinstance(plain, dict) and {"masks", "height", "width"} <= plain.keys():
            masks = _own_masks(plain)
        elif isinstance(plain, dict) and {"videos", "annotations"} <= plain.keys():
            masks = _coco_masks(plain, _choose_video(plain["videos"], video))
        else:
            raise MediaError("is neither the platform's masks.json nor COCO-video")
    except _MALFORMED as error:
        raise MediaError(f"is not a file of timed masks ({error!r})") from None
    return sorted(masks, key=lambda m: m.time_s)


def _own_masks(plain: dict[str, Any]) -> list[TrackMask]:
    size_px = _size(plain)
    return [
        TrackMask(
            time_s=float(mask["time_s"]),
            size_px=size_px,
            objects=tuple((str(o["category"]), dict(o["rle"])) for o in mask["objects"]),
            silent=tuple(
                dict(o["rle"]) for o in mask.get("visible", ()) if float(o["sounding"]) < SOUNDS
            ),
        )
        for mask in plain["masks"]
    ]


def _choose_video(videos: list[dict[str, Any]], video: str) -> dict[str, Any]:
    if len(videos) == 1:
        return videos[0]
    path = PurePosixPath(video)
    for entry in videos:
        names = [entry.get("name", ""), *entry.get("file_names", [""])[:1]]
        if PurePosixPath(names[0]).stem == path.stem or (
            len(names) > 1 and PurePosixPath(names[1]).parent.name in (path.stem, path.name)
        ):
            return entry
    raise MediaError(f"holds {len(videos)} videos, none of them named {path.stem}")


def _coco_masks(plain: dict[str, Any], video: dict[str, Any]) -> list[TrackMask]:
    """A mask for each frame of the list; a frame without objects is all background."""
    names = {c["id"]: str(c["name"]) for c in plain.get("categories", [])}
    size_px = _size(video)
    tracks = [a for a in plain["annotations"] if a["video_id"] == video["id"]]
    count = max([len(video.get("file_names", [])), *(len(a["segmentations"]) for a in tracks)])
    times = _coco_times(video, count)
    masks = []
    for k in range(count):
        found = [
            (names.get(a.get("category_id"), ""), a["segmentations"][k])
            for a in tracks
            if k < len(a["segmentations"]) and a["segmentations"][k] is not None
        ]
        masks.append(TrackMask(time_s=times[k], size_px=size_px, objects=tuple(found)))
    return masks


def _coco_times(video: dict[str, Any], count: int) -> list[float]:
    fps = video.get("fps")
    if fps is None:
        return [k + SECOND_OFFSET_S for k in range(count)]
    if not 0 < float(fps) < 10_000:
        raise MediaError(f"fps {fps} of its video is no frame rate")
    stems = [PurePosixPath(str(name)).stem for name in video.get("file_names", [])]
    numbers = [re.search(r"\d+$", stem) for stem in stems]
    if len(stems) == count and all(numbers):
        return [int(n.group()) / float(fps) for n in numbers if n]
    return [k / float(fps) for k in range(count)]


def _size(plain: dict[str, Any]) -> tuple[int, int]:
    height, width = int(plain["height"]), int(plain["width"])
    if min(height, width) < 1 or height * width > MAX_FRAME_PIXELS:
        raise MediaError(f"a size of {width} x {height} px is none")
    return height, width
