"""Sweeps as they lie in a folder, without a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from small_configs import train_config

from avs.config import build, dump
from avs.tuning.config import TuneConfig
from avs.tuning.records import Status, TrialRecord
from avs.tuning.space import Dimension, Space

RATE = "train.learning_rate"
WIDTH = "model.options.fusion_width"


def tune_config(
    out: Path,
    space: Sequence[dict[str, Any]] | None = None,
    *,
    base: dict[str, Any] | None = None,
    **search: Any,
) -> Any:
    """Three trials of two epochs over width and learning rate; ``search`` changes that section,
    ``base`` others."""
    given = {"num_trials": 3, "grace_epochs": 1, "reduction_factor": 2, **search}
    given["space"] = space or [
        {"key": WIDTH, "choice": [16, 32]},
        {"key": RATE, "loguniform": [1e-3, 1e-2]},
    ]
    plain = dump(train_config(out / "prepared", out / "sweep"))
    return build(TuneConfig, {**plain, **(base or {}), "search": given}, path="")


def space_of(*dimensions: dict[str, Any], **base: Any) -> Space:
    """A space over a plain configuration."""
    return Space([Dimension(**dimension) for dimension in dimensions], base)


def record(
    number: int, values: dict[str, Any], scores: Sequence[float] = (), **changes: Any
) -> TrialRecord:
    """A finished trial with those validation J."""
    made = TrialRecord(name=f"{number:04d}", values=values, status=Status.FINISHED, **changes)
    for epoch, score in enumerate(scores, start=1):
        made.add_epoch({"epoch": epoch, "val_j": score, "val_f": score / 2, "seconds": 2.0})
    return made


def write_epochs(out: str, name: str, scores: Sequence[float]) -> None:
    """Leave what a training of so many epochs leaves."""
    folder = Path(out) / "trials" / name
    folder.mkdir(parents=True, exist_ok=True)
    epochs = record(0, {}, scores).history
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in epochs))
