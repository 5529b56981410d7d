"""A finished track as the one document or file that a client asked for."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from avs.inference.outputs import OutputKind, write_outputs
from avs.inference.track import MaskTrack

__all__ = ["json_of", "written"]


def json_of(track: MaskTrack, *, name: str) -> bytes:
    """A track as rle_json; ``name``: what its sender calls the video."""
    return json.dumps({**track.to_json(), "video": name}, ensure_ascii=False).encode()


def written(track: MaskTrack, kind: str, folder: Path, *, video: Path) -> Path:
    """Write a track into an empty folder; returns the file to send.

    ``kind``: an OutputKind. Raises MediaError where the video cannot be drawn on.
    """
    names = write_outputs(track, folder, [OutputKind(kind)], video_path=str(video))
    if len(names) == 1 and kind != OutputKind.PNG.value:
        return folder / names[0]
    archive = folder / "masks.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:  # PNG is compressed already
        times = {"time_s": [mask.time_s for mask in track.masks], "classes": track.class_names}
        file.writestr(zipfile.ZipInfo("index.json"), json.dumps(times))
        for written_name in names:
            # Without the date of now: the same masks are the same bytes.
            file.writestr(zipfile.ZipInfo(written_name), (folder / written_name).read_bytes())
    shutil.rmtree(folder / "png")  # here, in a thread: there may be thousands
    return archive
