"""Who looks on while a run trains: one interface, told from one place (:mod:`.watch`) on rank 0.

An observer changes nothing of the training and cannot end it: what it fails at is said once in the
log of the worker, and the run goes on. The launcher makes them, so the loop knows none by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avs.training.run import EpochMetrics

if TYPE_CHECKING:
    from avs.training.state import TrainingState

__all__ = ["Observer", "SeenEpoch", "SeenStart", "SeenSteps", "epoch_scalars"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenStart:
    """A run begins, or goes on after ``step`` steps; ``state.history`` holds its epochs so far."""

    out: str
    step: int
    state: TrainingState


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenSteps:
    """The steps since the last call, up to ``step`` of the run (from 1), in ``epoch`` (from 1).

    scalars: by name: means over these steps and all ranks of the loss and its parts, and what is
    measured at the last of them.
    """

    step: int
    epoch: int
    scalars: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenEpoch:
    """An epoch has ended after ``step`` steps of the run; its checkpoint does not count yet.

    metrics: its line of metrics.jsonl, the last of ``state.history``.
    """

    step: int
    metrics: EpochMetrics
    state: TrainingState


class Observer:
    """Looks on; a subclass overrides what it wants to be told of."""

    def on_start(self, seen: SeenStart) -> None:
        """Before the first step of this start: forget whatever came after ``seen.step``."""

    def on_steps(self, seen: SeenSteps) -> None:
        """Every ``logging.every_steps`` steps, and with the first and last step of an epoch."""

    def on_epoch(self, seen: SeenEpoch) -> None:
        """After validation. Then follows :meth:`on_save`."""

    def on_save(self, step: int) -> None:
        """A checkpoint after ``step`` steps is about to be written: what was told must last."""

    def on_end(self) -> None:
        """All epochs are trained, and the last checkpoint counts."""


def epoch_scalars(metrics: EpochMetrics) -> dict[str, float]:
    """What is shown of an epoch as numbers, by name; what was not measured is left out."""
    names = {
        "epoch/loss": "loss",
        "validation/J": "val_j",
        "validation/F": "val_f",
        "epoch/clips_per_s": "clips_per_s",
        "epoch/stall": "stall",
        "epoch/seconds": "seconds",
        "epoch/validation_s": "validation_s",
        "memory/peak_bytes": "peak_memory_bytes",
        "memory/peak_gpu_bytes": "peak_gpu_memory_bytes",
    }
    found = {name: metrics.get(key) for name, key in names.items()}
    parts = {f"epoch/loss_{name}": value for name, value in metrics.get("parts", {}).items()}
    return {name: float(value) for name, value in (found | parts).items() if value is not None}
