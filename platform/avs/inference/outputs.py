"""What a segmented video is written as. One enum and one in-memory type for the job and Serve."""

from __future__ import annotations

import enum
import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from avs.inference.track import MaskTrack
from avs.media.masks import write_indexed_png
from avs.media.sandbox import draw_track

__all__ = ["OutputKind", "folder_name", "write_outputs"]

_MAX_NAME_BYTES = 200


class OutputKind(enum.Enum):
    """rle_json: masks.json with COCO run-lengths; png: an indexed PNG a mask; overlay: an mp4."""

    RLE_JSON = "rle_json"
    PNG = "png"
    OVERLAY = "overlay"


def write_outputs(
    track: MaskTrack, folder: Path, kinds: Sequence[OutputKind], *, video_path: str
) -> list[str]:
    """Write the outputs of one video into a local folder; returns their relative names."""
    names = []
    if OutputKind.RLE_JSON in kinds:
        names.append("masks.json")
        (folder / "masks.json").write_text(json.dumps(track.to_json(), ensure_ascii=False))
    if OutputKind.PNG in kinds:
        (folder / "png").mkdir()
        for k in range(len(track)):
            name = f"png/{k:06d}.png"
            data = write_indexed_png(track.mask(k), num_classes=len(track.class_names))
            (folder / name).write_bytes(data)
            names.append(name)
    if OutputKind.OVERLAY in kinds:
        names.append("overlay.mp4")
        with tempfile.TemporaryDirectory(prefix="avs-") as scratch:
            masks = Path(scratch) / "masks.json"
            masks.write_text(json.dumps(track.to_json(), ensure_ascii=False))
            draw_track(video_path, track=str(masks), target=str(folder / "overlay.mp4"))
    return names


def folder_name(path: str) -> str:
    """A video's relative path as the name of its output folder.

    Separators stay; what a file system or a URL could take for something else is %-escaped, and an
    over-long part is cut and given a hash. Never empty, never ``..``, never absolute.
    """
    return "/".join(_escape(part) for part in path.split("/"))


def _escape(part: str) -> str:
    def percent(match: re.Match[str]) -> str:
        return "".join(f"%{b:02X}" for b in match.group().encode("utf-8", "surrogateescape"))

    safe = re.sub(r'[\x00-\x1f\x7f%\\:*?"<>|\udc80-\udcff]|^\.|[. ]$', percent, part)
    if len(safe.encode()) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(part.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        safe = safe.encode()[: _MAX_NAME_BYTES - 16].decode(errors="ignore") + f"%{digest}"
    return safe or "%"  # no other part gives this: a "%" of its own becomes %25
