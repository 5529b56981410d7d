"""Categories of MS3 clips: what AVSBench-semantic says sounds in them, or the csv's own column.

AVSBench-object's csv of Multi-sources names no categories; AVSBench-semantic labels the same clips
anew and calls each by the same id, with its cut: clips of one video differ in what sounds (78 of
219 videos in the real csv), so the id is never shortened to find a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from avs import storage
from avs.datasets.avss_metadata import AVSS_CLASSES, clean_objects
from avs.datasets.tree import read_csv
from avs.errors import DataError

__all__ = ["clip_categories"]

_NO_ROW = "the csv of data.categories has no row for the clip, which gets no category"


def clip_categories(
    rows: Sequence[Mapping[str, str]], *, uri: str | None
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each clip its categories, and notes on what was repaired or is not there.

    Args:
        rows: of the data set's csv: ``name``, and ``category`` (joined by "_") where it has it.
        uri: AVSBench-semantic's metadata.csv, whose ``a_obj`` replaces that column; or None.

    Raises:
        DataError: the csv is missing, lacks a column, or knows none of the clips.
    """
    if uri is None:
        columns = [row.get("category", "") for row in rows]
        return [(tuple(c for c in column.split("_") if c), ()) for column in columns]
    if not storage.exists(uri):
        raise DataError(f"data.categories={uri} does not exist.")
    objects = {row["uid"]: row["a_obj"] for row in read_csv(uri, ("uid", "a_obj"))}
    if not any(row["name"] in objects for row in rows):
        raise DataError(
            f"data.categories={uri} has no row for any of the {len(rows)} clips (the first is "
            f"{rows[0]['name']}): give AVSBench-semantic's metadata.csv, or leave the key out."
        )
    return [
        clean_objects(objects[row["name"]], AVSS_CLASSES)
        if row["name"] in objects
        else ((), (_NO_ROW,))
        for row in rows
    ]
