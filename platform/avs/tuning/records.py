"""What is known of each trial: ``trials/NNNN`` below a sweep's folder holds all of it.

``trial.json`` (values, status, failures) is the driver's, ``metrics.jsonl`` the training run's own,
``latency.json`` the trial's; no file has two writers. Names count up without gaps, so a sweep is
read without listing a bucket.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from avs import storage
from avs.training.run import Run, best_epoch
from avs.tuning.config import Objective

__all__ = [
    "EPOCH_KEYS",
    "Status",
    "TrialRecord",
    "load_record",
    "load_records",
    "trial_folder",
    "trial_name",
]

EPOCH_KEYS = ("epoch", "val_j", "val_f", "seconds")


class Status(enum.Enum):
    """How a trial stands: trained to the end, stopped early, not at its end yet, given up."""

    FINISHED = "finished"
    STOPPED = "stopped"
    UNFINISHED = "unfinished"
    FAILED = "failed"


@dataclass(kw_only=True, slots=True)
class TrialRecord:
    """One trial. values: by dotted key, without what is not searched beside the others.

    history: epoch, val_j, val_f and seconds of each epoch. error: why it failed last.
    num_failures counts over all starts. latency_s: median forward of one clip, where measured.
    """

    name: str
    values: dict[str, Any]
    status: Status = Status.UNFINISHED
    num_failures: int = 0
    error: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    latency_s: float | None = None

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch that counts as the best of its training; None before the first."""
        if not self.history:
            return None
        number = best_epoch(self.history)
        return next(epoch for epoch in self.history if epoch["epoch"] == number)

    @property
    def val_j(self) -> float | None:
        """The highest J of any epoch: that epoch's checkpoint is kept."""
        return None if self.best is None else float(self.best["val_j"])

    def score(self, objective: Objective) -> float:
        """What an objective says of a finished trial."""
        found = self.val_j if objective is Objective.J else self.latency_s
        assert found is not None, f"{self.name} has no {objective.value}"
        return found

    def add_epoch(self, metrics: dict[str, Any]) -> None:
        """Take in an epoch; one that was there already is replaced."""
        known = [epoch for epoch in self.history if epoch["epoch"] < metrics["epoch"]]
        self.history = [*known, {key: metrics[key] for key in EPOCH_KEYS}]

    def save(self, out: str) -> None:
        """Write trial.json."""
        storage.write_json(
            storage.join(trial_folder(out, self.name), "trial.json"),
            {
                "values": self.values,
                "status": self.status.value,
                "num_failures": self.num_failures,
                "error": self.error,
            },
        )

    def read_results(self, out: str, *, num_epochs: int, with_latency: bool) -> None:
        """Take in what the trial itself wrote; a run of ``num_epochs`` epochs is finished."""
        folder = trial_folder(out, self.name)
        self.history = []
        for metrics in Run(folder).read_metrics():
            self.add_epoch(metrics)
        uri = storage.join(folder, "latency.json")
        if with_latency and storage.exists(uri):
            self.latency_s = float(storage.read_json(uri)["median_s"])
        whole = len(self.history) >= num_epochs
        if whole and (self.latency_s is not None or not with_latency):
            self.status = Status.FINISHED

    def row(self) -> dict[str, Any]:
        """For trials.json and the report."""
        best = self.best or {}
        return {
            "trial": self.name,
            "val_j": self.val_j,
            "val_f": best.get("val_f"),
            "best_epoch": best.get("epoch"),
            "epochs": len(self.history),
            "latency_ms": None if self.latency_s is None else 1000 * self.latency_s,
            "seconds": sum(epoch["seconds"] for epoch in self.history),
            "values": self.values,
            "status": self.status.value,
            "num_failures": self.num_failures,
            "error": self.error,
        }


def trial_folder(out: str, name: str) -> str:
    """Where a trial's run and records are."""
    return storage.join(out, "trials", name)


def trial_name(number: int) -> str:
    """Of trial ``number``, from 0."""
    return f"{number:04d}"


def load_record(out: str, name: str) -> TrialRecord:
    """A trial as its trial.json has it. Raises DataError where there is none."""
    plain = storage.read_json(storage.join(trial_folder(out, name), "trial.json"))
    return TrialRecord(name=name, **{**plain, "status": Status(plain["status"])})


def load_records(out: str, *, num_epochs: int, with_latency: bool) -> list[TrialRecord]:
    """All trials of a sweep in their order, each with what it wrote."""
    records: list[TrialRecord] = []
    while storage.exists(storage.join(trial_folder(out, trial_name(len(records))), "trial.json")):
        record = load_record(out, trial_name(len(records)))
        record.read_results(out, num_epochs=num_epochs, with_latency=with_latency)
        records.append(record)
    return records
