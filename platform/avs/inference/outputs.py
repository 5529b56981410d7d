"""What a segmented video is written as. One enum and one in-memory type for the job and Serve."""

from __future__ import annotations

import enum
import hashlib
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from avs.errors import ConfigError
from avs.inference.rle_table import write_rle_parquet
from avs.inference.track import MaskTrack
from avs.media.masks import write_indexed_png
from avs.media.sampling import MAX_SAMPLES_PER_S
from avs.media.sandbox import draw_track, matte_track, thumbnail_track

__all__ = [
    "OUTPUT_NAMES",
    "OutputKind",
    "check_masks_per_s",
    "folder_name",
    "is_output",
    "need_video",
    "parse_masks_per_s",
    "write_outputs",
]

_MAX_NAME_BYTES = 200
_NATIVE = "native"


class OutputKind(enum.Enum):
    """rle_json: masks.json with COCO run-lengths; rle_parquet: the same as a table; png: an indexed
    PNG a mask; npz: all masks as arrays; overlay: an mp4; thumbnails: a JPEG of some moments;
    matte: a QuickTime file with alpha."""

    RLE_JSON = "rle_json"
    RLE_PARQUET = "rle_parquet"
    PNG = "png"
    NPZ = "npz"
    OVERLAY = "overlay"
    THUMBNAILS = "thumbnails"
    MATTE = "matte"


# What each kind writes into the folder of a video; a name with a slash is a folder of many files.
OUTPUT_NAMES = {
    OutputKind.RLE_JSON: "masks.json",
    OutputKind.RLE_PARQUET: "masks.parquet",
    OutputKind.PNG: "png/",
    OutputKind.NPZ: "masks.npz",
    OutputKind.OVERLAY: "overlay.mp4",
    OutputKind.THUMBNAILS: "thumbnails.jpg",
    OutputKind.MATTE: "matte.mov",
}
_PNG = re.compile(r"png/\d+\.png")
_VIDEO_WRITERS = {
    OutputKind.OVERLAY: draw_track,
    OutputKind.THUMBNAILS: thumbnail_track,
    OutputKind.MATTE: matte_track,
}


def is_output(path: str) -> bool:
    """Whether a file of that path below a video's folder is an output of this video."""
    return path in OUTPUT_NAMES.values() or _PNG.fullmatch(path) is not None


def need_video(kinds: Sequence[OutputKind]) -> bool:
    """Whether :func:`write_outputs` looks at the video again for some of ``kinds``."""
    return not _VIDEO_WRITERS.keys().isdisjoint(kinds)


def parse_masks_per_s(text: str) -> int | None:
    """How many masks a second ``text`` asks for, None = ``native``, every frame.

    Raises ConfigError.
    """
    if text == _NATIVE:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SAMPLES_PER_S))
    return check_masks_per_s(int(text) if is_number else text)


def check_masks_per_s(value: int | str) -> int:
    """``value``, where it is a number of masks a second; raises ConfigError."""
    if isinstance(value, str) or not 1 <= value <= MAX_SAMPLES_PER_S:
        raise ConfigError(
            f"masks_per_s={value!s:.40} must be a whole number from 1 to {MAX_SAMPLES_PER_S}, or "
            f"{_NATIVE} for a mask of every frame."
        )
    return value


def write_outputs(
    track: MaskTrack, folder: Path, kinds: Sequence[OutputKind], *, video_path: str
) -> list[str]:
    """Write the outputs of one video into a local folder; returns their relative names.

    ``video_path`` is not looked at unless :func:`need_video`.

    One mask, or one frame, is in memory at a time. Raises MediaError.
    """
    files: dict[OutputKind, Callable[[Path], None]] = {
        OutputKind.RLE_JSON: partial(_write_json, track),
        OutputKind.RLE_PARQUET: partial(write_rle_parquet, track),
        OutputKind.NPZ: partial(_write_npz, track),
    }
    names: list[str] = []
    for kind in (kind for kind in OutputKind if kind in kinds):
        name = OUTPUT_NAMES[kind]
        if kind is OutputKind.PNG:
            names += _write_pngs(track, folder, name)
        elif kind in files:
            files[kind](folder / name)
            names.append(name)
    return names + _write_videos(track, folder, kinds, video_path=video_path)


def _write_json(track: MaskTrack, path: Path) -> None:
    path.write_text(json.dumps(track.to_json(), ensure_ascii=False))


def _write_pngs(track: MaskTrack, folder: Path, below: str) -> list[str]:
    (folder / below).mkdir()
    names = [f"{below}{k:06d}.png" for k in range(len(track))]
    for k, name in enumerate(names):
        data = write_indexed_png(track.mask(k), num_classes=len(track.class_names))
        (folder / name).write_bytes(data)
    return names


def _write_videos(
    track: MaskTrack, folder: Path, kinds: Sequence[OutputKind], *, video_path: str
) -> list[str]:
    """What shows the video itself, in the decoder child, which takes the masks as a file."""
    wanted = [kind for kind in _VIDEO_WRITERS if kind in kinds]
    if wanted:
        with tempfile.TemporaryDirectory(prefix="avs-") as scratch:
            masks = Path(scratch) / "masks.json"
            _write_json(track, masks)
            for kind in wanted:
                target = str(folder / OUTPUT_NAMES[kind])
                _VIDEO_WRITERS[kind](video_path, track=str(masks), target=target)
    return [OUTPUT_NAMES[kind] for kind in wanted]


def _write_npz(track: MaskTrack, path: Path) -> None:
    """What ``np.savez_compressed`` writes, of masks that do not fit in memory together."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(track), *track.size_px)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(_member("masks"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for k in range(len(track)):
                member.write(track.mask(k).tobytes())
        times_s = np.array([mask.time_s for mask in track.masks], np.float64)
        for name, array in {"time_s": times_s, "class_names": np.array(track.class_names)}.items():
            with archive.open(_member(name), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _member(name: str) -> zipfile.ZipInfo:
    """Of no date, or the bytes would be others every time."""
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


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
