"""The objects of an evaluation in its report: those of the shown pictures, and how many there are.

A picture stands beside its own table, because outlines carry no names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avs.media.coco import SOUNDS
from avs.report.page import table

__all__ = ["object_sums", "object_table"]

_NOT_SEEN = "-"


def object_table(shown: Sequence[dict[str, Any]]) -> str:
    """HTML of one picture's objects: how sure, and how much each sounds with each sound.

    ``shown``: see :func:`avs.inference.object_scores.shown_objects`.
    """
    if not shown:
        return "<p>No object is seen.</p>"
    sounds = list(shown[0]["sounding"])
    rows = [
        (one["category"], one["score"], *(_cell(one["sounding"][sound]) for sound in sounds))
        for one in shown
    ]
    return table(("object", "score", *(f"sounds, {sound}" for sound in sounds)), rows)


def object_sums(objects: dict[str, Any]) -> str:
    """HTML of the sums: objects a frame with each sound, and frames by category.

    ``objects``: see :func:`avs.inference.object_scores.sum_objects`.
    """
    totals = objects["by_sound"]
    told = (
        f"<p>{objects['num_frames']} frames. An object sounds from {SOUNDS:g} on; one that does "
        "not is outlined. Visible objects have no ground truth here.</p>"
    )
    keys = ("seen", "seen_per_frame", "sounding", "sounding_per_frame")
    rows = [(sound, *(total[key] for key in keys)) for sound, total in totals.items()]
    header = ("sound", "seen", "seen a frame", "sounding", "sounding a frame")
    return told + table(header, rows) + _by_category(objects["by_category"], list(totals))


def _by_category(categories: dict[str, Any], sounds: Sequence[str]) -> str:
    """Frames in which an object of the category is seen, and in how many of them it sounds."""
    if not categories:
        return ""
    nothing = {"seen": 0, "sounding": 0}
    rows = []
    for name, counts in categories.items():
        own = [counts.get(sound, nothing) for sound in sounds]
        rows.append((name, own[0]["seen"], *(count["sounding"] for count in own)))
    header = ("object", "frames seen in", *(f"sounding, {sound}" for sound in sounds))
    return "<br>" + table(header, rows)


def _cell(sounding: float | None) -> float | str:
    return _NOT_SEEN if sounding is None else sounding
