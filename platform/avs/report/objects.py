"""The objects of an evaluation in its report: those of the shown pictures, and their number."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from avs.media.coco import SOUNDS
from avs.report.page import table

__all__ = ["object_legend", "object_strip", "object_sums"]

_NOT_SEEN = "-"


def object_legend() -> str:
    """HTML that says what strips and tables show."""
    return (
        f"<p>What sounds is tinted; an object that sounds less than {SOUNDS:g} is outlined. Score: "
        "how sure the model is that the object is there; sounding: how much it sounds, with the "
        "clip's own sound, without any, and with another clip's; 0 to 1.</p>"
    )


def object_strip(clip_id: str, strip: str, shown: Sequence[dict[str, Any]], *, second: int) -> str:
    """HTML of one clip: its name, its pictures ``strip`` (HTML) and the table of its objects.

    second: of the pictures, from 0. shown: see :func:`avs.inference.object_scores.shown_objects`.
    """
    return f"<h3>{html.escape(clip_id)}, second {second}</h3>\n{strip}\n{_object_table(shown)}\n"


def _object_table(shown: Sequence[dict[str, Any]]) -> str:
    if not shown:
        return "<p>No object is seen.</p>"
    sounds = list(shown[0]["sounding"])
    rows = [
        (one["category"], one["score"], *(_cell(one["sounding"][sound]) for sound in sounds))
        for one in shown
    ]
    return table(("object", "score", *(f"sounding: {sound}" for sound in sounds)), rows)


def object_sums(objects: dict[str, Any]) -> str:
    """HTML of the sums: objects a frame with each sound, and frames by category.

    ``objects``: see :func:`avs.inference.object_scores.sum_objects`.
    """
    totals = objects["by_sound"]
    told = (
        f"<p>{objects['num_frames']} frames; an object sounds from {SOUNDS:g} on. What is visible "
        "has no ground truth here: these are the model's own claims.</p>"
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
    header = ("object", "frames seen in", *(f"sounding: {sound}" for sound in sounds))
    return "<br>" + table(header, rows)


def _cell(sounding: float | None) -> float | str:
    return _NOT_SEEN if sounding is None else sounding
