"""A whole split scored in this process, clip by clip: what a study does in each of its trials.

The job of :mod:`avs.inference.evaluation` spreads the same scorer over a cluster; here the trials
already fill it. No Ray.
"""

from __future__ import annotations

from typing import Any

import torch

from avs.inference.conditions import Condition, choose_donors
from avs.inference.scoring import ClipScorer, as_numpy, combine
from avs.metrics import BinaryMeter
from avs.telemetry import stage
from avs.training.checkpoint import load_checkpoint
from avs.training.feed import ClipReader

__all__ = ["score_split"]


def score_split(checkpoint: str, prepared: str, *, split: str, device: str) -> dict[str, Any]:
    """J and F (0..1, AVSBench protocol, test batch of one clip) with the true, the silent and the
    swapped sound.

    Returns ``{"num_clips", "conditions": {"true": {"j", "f"}, ...}, "clips": [{"clip_id", "true":
    {"j", "f"}, ...}]}``; of ``clips``, those without ground truth are left out, and all of a
    semantic model, whose figures are means over classes and not over clips.
    """
    reader = ClipReader(prepared, split=split)
    ids = reader.clip_ids()
    donors = choose_donors(reader.categories(), ids)
    scorer = ClipScorer(checkpoint, prepared, split, device)
    tasks = [{"index": i, "donor": donor, "picture": False} for i, donor in enumerate(donors)]
    rows = []
    for clip_id, task in zip(ids, tasks, strict=True):
        with stage("evaluate", "score", clip_id=clip_id):
            rows.append(scorer(task))
    num_classes = load_checkpoint(checkpoint).model.num_classes
    conditions = combine(rows, num_classes=num_classes, batch_size=1)
    return {
        "num_clips": conditions["true"]["num_clips"],
        "conditions": {name: {k: both[k] for k in ("j", "f")} for name, both in conditions.items()},
        "clips": [] if num_classes > 1 else [_clip(row) for row in rows if _is_scored(row)],
    }


def _is_scored(row: dict[str, Any]) -> bool:
    return row["scores"][Condition.TRUE.value] is not None


def _clip(row: dict[str, Any]) -> dict[str, Any]:
    values = {}
    for condition in Condition:
        score = row["scores"][condition.value]
        meter = BinaryMeter(batch_size_clips=1)
        meter.add(*(torch.from_numpy(as_numpy(score[key])) for key in ("iou", "curve", "nonempty")))
        result = meter.result()
        values[condition.value] = {"j": float(result["j"]), "f": float(result["f"])}
    return {"clip_id": row["clip_id"], **values}
