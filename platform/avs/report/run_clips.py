"""Clips of the validation split under their own, no and another clip's sound: what a model hears.

What the evaluation job spreads over a cluster is done here in one process on a few clips, because
the run that has just ended has a device and no Ray at hand.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from avs.inference.conditions import Condition, choose_donors
from avs.inference.scoring import ClipScorer, as_numpy, combine, spread_out
from avs.report.figures import contact_sheet
from avs.report.run import best_and_worst
from avs.training.checkpoint import load_checkpoint
from avs.training.feed import ClipReader

__all__ = ["ScoredClips", "score_clips"]

_NO_NAME = "(not named)"
_SPLIT = "val"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredClips:
    """``plain``: the figures, for JSON. best, worst: contact sheets (PNG), None without clips."""

    plain: dict[str, Any]
    best: bytes | None
    worst: bytes | None


def score_clips(
    checkpoint: str, prepared: Sequence[str], *, num_clips: int, device: str
) -> ScoredClips | None:
    """Score ``num_clips`` clips, spread evenly over the validation splits of ``prepared``.

    J and F are fractions (0..1), AVSBench protocol, test batch of one clip. ``plain`` holds
    ``conditions`` (J and F by sound), ``categories`` and ``clips`` (J by sound of each; of a
    semantic model the mean IoU over the classes that occur in a clip). None where no clip of them
    has ground truth.

    Raises:
        CheckpointError, DataError: something cannot be read.
    """
    start_s = time.monotonic()
    loaded = load_checkpoint(checkpoint)
    num_classes = loaded.model.num_classes
    splits = [_Split(loaded.uri, folder, device) for folder in prepared]
    places = [(split, index) for split in splits for index in range(len(split.categories))]
    chosen = [places[k] for k in sorted(spread_out(num_clips, len(places)))]
    rows = [split.score(index, k) for k, (split, index) in enumerate(chosen)]
    scored = [row for row in rows if row["scores"][Condition.TRUE.value] is not None]
    if not scored:
        return None
    conditions = combine(scored, num_classes=num_classes, batch_size=1)
    clips = [_clip(row) for row in scored]
    draw = partial(_sheet, chosen=chosen, num_classes=len(loaded.clip.class_names))
    best, worst = best_and_worst(clips)
    categories = (
        _by_class(conditions, loaded.clip.class_names) if num_classes > 1 else _by_category(clips)
    )
    plain = {
        "checkpoint": loaded.uri,
        "epoch": loaded.metrics["epoch"],
        "num_clips": len(clips),
        "split_clips": len(places),
        "seconds": round(time.monotonic() - start_s, 1),
        "counted": "frames" if num_classes > 1 else "clips",
        "conditions": {name: {k: both[k] for k in ("j", "f")} for name, both in conditions.items()},
        "categories": categories,
        "clips": [{k: v for k, v in clip.items() if k != "place"} for clip in clips],
    }
    return ScoredClips(plain=plain, best=draw(best), worst=draw(worst))


class _Split:
    """The validation split of one folder."""

    def __init__(self, checkpoint: str, prepared: str, device: str) -> None:
        reader = ClipReader(prepared, split=_SPLIT)
        self.categories = reader.categories()
        self._donors = choose_donors(self.categories, reader.clip_ids())
        self._scorer = ClipScorer(checkpoint, prepared, _SPLIT, device)

    def score(self, index: int, place: int, *, picture: bool = False) -> dict[str, Any]:
        """A row of the scorer; ``place`` is its number among all that are scored."""
        task = {"index": index, "donor": self._donors[index], "picture": picture}
        named = list(self.categories[index])
        return {**self._scorer(task), "index": place, "categories": named}


def _clip(row: dict[str, Any]) -> dict[str, Any]:
    by_sound = {name: _clip_j(score) for name, score in row["scores"].items()}
    keys = {"clip_id": row["clip_id"], "categories": row["categories"], "place": row["index"]}
    return keys | by_sound


def _clip_j(score: Mapping[str, Any]) -> float:
    if "j" in score:
        return float(score["j"])
    iou_K, count_K = as_numpy(score["iou"]), as_numpy(score["count"])
    seen_K = count_K > 0
    if seen_K[1:].any():  # class 0 is the background
        seen_K[0] = False
    return float((iou_K[seen_K] / count_K[seen_K]).mean())


def _sheet(
    clips: Sequence[dict[str, Any]], *, chosen: Sequence[tuple[_Split, int]], num_classes: int
) -> bytes | None:
    """A row a clip; None without clips."""
    pictures: list[tuple[str, dict[str, np.ndarray]]] = []
    for clip in clips:
        split, index = chosen[clip["place"]]
        # Scored again with a picture: keeping the pictures of all clips would cost more memory.
        row = split.score(index, clip["place"], picture=True)
        arrays = {name: as_numpy(array) for name, array in row["picture"].items()}
        name = clip["clip_id"].rpartition("/")[2]
        pictures.append((f"J {clip[Condition.TRUE.value]:.2f} {name}", arrays))
    return contact_sheet(pictures, num_classes=num_classes) if pictures else None


def _by_category(clips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean J of the clips that name a category, for each; a clip may name several."""
    names = sorted({name for clip in clips for name in clip["categories"] or [_NO_NAME]})
    return [_mean(name, clips) for name in names]


def _mean(name: str, clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    own = [clip for clip in clips if name in (clip["categories"] or [_NO_NAME])]
    means = {c.value: float(np.mean([clip[c.value] for clip in own])) for c in Condition}
    return {"name": name, "count": len(own), **means}


def _by_class(
    conditions: Mapping[str, Mapping[str, Any]], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """IoU of each class that occurs, over the frames in which it does."""
    return list(_classes(conditions, class_names))


def _classes(
    conditions: Mapping[str, Mapping[str, Any]], class_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    counts = conditions[Condition.TRUE.value]["per_class_count"]
    for k, name in enumerate(class_names):
        if counts[k]:
            values = {c.value: conditions[c.value]["per_class_iou"][k] for c in Condition}
            yield {"name": name, "count": int(counts[k]), **values}
