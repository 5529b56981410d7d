"""What an evaluation tells of the objects that a model sees: what is sent of a clip, and the sums.

Counted are the objects of masks.json, at the size of the prepared frames and in real ones, not in
padding. Nothing here is compared with a ground truth: data sets say which objects sound, not which
others are visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avs.inference.conditions import Condition
from avs.inference.objects import VisibleObject
from avs.media.coco import TrackMask

__all__ = [
    "FoundObjects",
    "count_objects",
    "object_lines",
    "outlines",
    "shown_objects",
    "sum_objects",
]

FoundObjects = Mapping[Condition, Sequence[Sequence[VisibleObject]]]  # of each sound and frame


def count_objects(found: FoundObjects, frame_valid: np.ndarray) -> dict[str, Any]:
    """Of one clip, as it is sent: num_frames, and by sound and category [frames in which such an
    object is seen, frames in which it sounds too]. frame_valid: bool [T]."""
    real = np.flatnonzero(frame_valid).tolist()
    counts: dict[str, Any] = {}
    for condition, frames in found.items():
        own: dict[str, list[int]] = {}
        for one in (one for k in real for one in frames[k]):
            count = own.setdefault(one.category, [0, 0])
            count[0] += 1
            count[1] += one.sounds
        counts[condition.value] = own
    return {"num_frames": len(real), "counts": counts}


def outlines(found: FoundObjects, frame: int, size_px: tuple[int, int]) -> dict[str, np.ndarray]:
    """Objects of a frame as labels, uint8 [h, w]: 1, 2, ..., 0 elsewhere.

    ``seen_outlines``: all that is seen with the true sound, in the order of :func:`shown_objects`;
    ``<sound>_outlines``: the silent ones with each sound.
    """
    seen = sorted(found[Condition.TRUE][frame], key=_surest)
    labels = {"seen_outlines": _labels(seen, size_px)}
    for condition, frames in found.items():
        silent = [one for one in frames[frame] if not one.sounds]
        labels[f"{condition.value}_outlines"] = _labels(silent, size_px)
    return labels


def _labels(objects: Sequence[VisibleObject], size_px: tuple[int, int]) -> np.ndarray:
    codes = tuple(one.rle for one in objects)
    return TrackMask(time_s=0.0, size_px=size_px, objects=(), silent=codes).silent_labels()


def _surest(one: VisibleObject) -> float:
    return -one.score


def shown_objects(found: FoundObjects, frame: int) -> list[dict[str, Any]]:
    """The objects of a frame, the surest with the true sound first: category, score, and by sound
    how much it sounds, None where it is not seen with that sound."""
    records: dict[str, dict[str, Any]] = {}
    for condition, frames in found.items():
        for one in sorted(frames[frame], key=_surest):
            empty = {"category": one.category, "score": one.score}
            empty["sounding"] = dict.fromkeys((c.value for c in found), None)
            record = records.setdefault(one.category, empty)
            record["sounding"][condition.value] = one.sounding
    return list(records.values())


def sum_objects(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over all clips, for metrics.json.

    num_frames; ``by_sound``: seen and sounding objects, in all and per frame; ``by_category``:
    frames with such an object, seen and sounding, by sound.
    """
    num_frames = sum(row["objects"]["num_frames"] for row in rows)
    by_category: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        for sound, counts in row["objects"]["counts"].items():
            for category, (seen, sounding) in counts.items():
                own = by_category.setdefault(category, {})
                total = own.setdefault(sound, {"seen": 0, "sounding": 0})
                total["seen"] += seen
                total["sounding"] += sounding
    return {
        "num_frames": num_frames,
        "by_sound": {c.value: _total(by_category, c.value, num_frames) for c in Condition},
        "by_category": dict(sorted(by_category.items())),
    }


def object_lines(metrics: dict[str, Any]) -> list[str]:
    """The sums as the jobs print them; nothing where nobody asked."""
    if "objects" not in metrics:
        return []
    totals = metrics["objects"]["by_sound"]
    sounding = ", ".join(f"{total['sounding_per_frame']:.2f} {s}" for s, total in totals.items())
    seen = totals[Condition.TRUE.value]["seen_per_frame"]
    return [f"objects a frame: {seen:.2f} seen; sounding: {sounding}"]


def _total(
    by_category: dict[str, dict[str, dict[str, int]]], sound: str, num_frames: int
) -> dict[str, float]:
    counts = [own[sound] for own in by_category.values() if sound in own]
    total: dict[str, float] = {}
    for key in ("seen", "sounding"):
        total[key] = sum(count[key] for count in counts)
        total[f"{key}_per_frame"] = total[key] / max(num_frames, 1)
    return total
