"""A track as a Parquet table, for those who query many videos: a row an object of a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avs.inference.track import MaskTrack
from avs.media.masks import rle_area

__all__ = ["RLE_SCHEMA", "write_rle_parquet"]

# ``counts``: COCO's compressed run-lengths of [height, width]; ``area``: share of the picture.
# ``sounding``: null for what counts as sounding, else of a visible object (masks.json: visible).
RLE_SCHEMA = pa.schema(
    [
        ("mask", pa.int32()),
        ("time_s", pa.float64()),
        ("class", pa.int32()),
        ("category", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("counts", pa.string()),
        ("area", pa.float32()),
        ("score", pa.float32()),
        ("sounding", pa.float32()),
    ]
)


def write_rle_parquet(track: MaskTrack, path: Path) -> None:
    """Write the masks of a video, in the order of time; a mask in which nothing sounds has no row.

    Visible objects (``objects=true``) are rows with ``score`` and ``sounding``, and no class.
    """
    rows = [row for index in range(len(track)) for row in _rows(track, index)]
    metadata = {"masks_per_s": str(track.masks_per_s), "duration_s": repr(track.duration_s)}
    schema = RLE_SCHEMA.with_metadata(metadata | {"num_masks": str(len(track))})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def _rows(track: MaskTrack, index: int) -> list[dict[str, Any]]:
    mask = track.masks[index]
    height, width = track.size_px
    common = {"mask": index, "time_s": mask.time_s, "height": height, "width": width}
    found: list[dict[str, Any]] = [
        {"class": number, "category": track.class_names[number], "rle": rle}
        for number, rle in mask.rles.items()
    ]
    found += [
        {"category": one.category, "score": one.score, "sounding": one.sounding, "rle": one.rle}
        for one in mask.visible or ()
    ]
    return [
        common
        | {key: value for key, value in one.items() if key != "rle"}
        | {"counts": one["rle"]["counts"], "area": rle_area(one["rle"]) / (height * width)}
        for one in found
    ]
