"""A finished track as the one file that a client asked for."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from avs.inference.outputs import OutputKind, write_outputs
from avs.inference.track import MaskTrack

__all__ = ["written"]


def written(track: MaskTrack, kind: str, folder: Path, *, video: Path, name: str) -> Path:
    """Write a track into an empty folder; returns the file to send.

    ``kind``: an OutputKind. Raises MediaError where the video cannot be drawn on.
    """
    if kind == OutputKind.RLE_JSON.value:
        target = folder / "masks.json"
        plain = {**track.to_json(), "video": name}
        target.write_text(json.dumps(plain, ensure_ascii=False), encoding="utf-8")
        return target
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
    return archive
