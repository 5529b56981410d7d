"""A run folder: checkpoints, pointers to the last and the best, metrics.jsonl, progress.

Everything derives from the checkpoint that ``last.json`` names, whose trainer state holds the
history: killed between two writes, the next start repairs the rest from there.
"""

from __future__ import annotations

import json
import time
from typing import Any

import yaml

from avs import storage
from avs.config import dump
from avs.config_changes import Change, changes, tell, with_defaults
from avs.errors import ConfigError
from avs.training.checkpoint import load_trainer_state
from avs.training.config import TrainConfig

__all__ = ["EpochMetrics", "Run", "best_epoch", "summary_rows"]

EpochMetrics = dict[str, Any]
_CHECKPOINTS = "checkpoints"
# May differ between two starts of one run without making it another run.
_FREE_KEYS = (
    "out",
    "scale",
    "data.feed",
    "train.epochs",
    "train.num_threads",
    "inference",
    "checkpoint.every_steps",
    "checkpoint.keep_best",
    "logging",
)
_BACK_OFF_S = 60.0


class Run:
    """The files of one training run below ``out`` (local or ``s3://``)."""

    def __init__(self, out: str) -> None:
        self.out = storage.absolute(out)
        self._progress_s = 0.0
        self._told: list[dict[str, Any]] = []
        self._start_s = time.time()

    def claim(self, config: TrainConfig) -> list[Change]:
        """Write config.yaml, or refuse a folder that another configuration began.

        Returns what differs from the start before and may.

        Raises:
            ConfigError: names the keys that differ, with both values; or a checkpoint lies there.
        """
        if storage.exists(storage.join(self.out, "weights.safetensors")):
            raise ConfigError(f"out={self.out} is a checkpoint, not a run: give another out=.")
        uri = storage.join(self.out, "config.yaml")
        mine, allowed = dump(config), list[Change]()
        begun = storage.exists(storage.join(self.out, "last.json"))  # else nothing was trained yet
        if begun and storage.exists(uri):
            theirs = with_defaults(
                yaml.safe_load(storage.read_bytes(uri)), TrainConfig, as_plain=dump
            )
            changed = changes(mine, theirs, free=_FREE_KEYS)
            if changed:
                raise ConfigError(
                    f"out={self.out} holds a run with another configuration: {tell(changed)}. "
                    "Give another out=, go on with that run's values, or remove its folder."
                )
            allowed = changes(mine, theirs)
        storage.write_bytes(uri, yaml.safe_dump(mine, sort_keys=False).encode())
        return allowed

    def last_state(self) -> tuple[str, dict[str, Any]] | None:
        """URI and trainer state of the last committed checkpoint, or None for a new run."""
        uri = self.last_uri()
        return None if uri is None else (uri, load_trainer_state(uri))

    def last_metrics(self) -> EpochMetrics | None:
        """Metrics of the last committed checkpoint, of one inside an epoch with ``step`` and
        ``num_lanes``; None for a new run."""
        uri = self.last_uri()
        return None if uri is None else storage.read_json(storage.join(uri, "metrics.json"))

    def last_uri(self) -> str | None:
        """The last committed checkpoint, None for a new run."""
        pointer = storage.join(self.out, "last.json")
        if not storage.exists(pointer):
            return None
        return storage.join(self.out, storage.read_json(pointer)["checkpoint"])

    def epoch_uri(self, epoch: int) -> str:
        """Where the checkpoint of an epoch (from 1) goes."""
        return storage.join(self.out, _CHECKPOINTS, _epoch_name(epoch))

    def step_uri(self, epoch: int, step: int) -> str:
        """Where the checkpoint after ``step`` steps of an epoch (from 1) goes."""
        return f"{self.epoch_uri(epoch)}-step-{step:06d}"

    def commit(
        self, history: list[EpochMetrics], *, uri: str | None = None, keep_best: int = 1
    ) -> None:
        """Make a checkpoint count, and drop the others but the best ones.

        uri: the checkpoint; None = that of the last epoch in ``history``. keep_best: epochs.
        """
        uri = uri or self.epoch_uri(history[-1]["epoch"])
        name = uri.rpartition("/")[2]
        last = {"checkpoint": f"{_CHECKPOINTS}/{name}"}
        storage.write_json(storage.join(self.out, "last.json"), last)
        self.repair(history)
        kept = {name, *(_epoch_name(epoch) for epoch in best_epochs(history, keep_best))}
        for other in {i.path.split("/")[0] for i in self._checkpoint_files()} - kept:
            storage.remove(storage.join(self.out, _CHECKPOINTS, other))

    def repair(self, history: list[EpochMetrics]) -> None:
        """Rewrite best.json and metrics.jsonl from the history of the last checkpoint."""
        if not history:
            return
        best = best_epoch(history)
        storage.write_json(
            storage.join(self.out, "best.json"),
            {
                "checkpoint": f"{_CHECKPOINTS}/{_epoch_name(best)}",
                "val_j": history[best - 1]["val_j"],
            },
        )
        lines = "".join(json.dumps(m) + "\n" for m in history)
        storage.write_bytes(storage.join(self.out, "metrics.jsonl"), lines.encode())

    def read_metrics(self) -> list[EpochMetrics]:
        """The lines of metrics.jsonl, empty before the first epoch."""
        uri = storage.join(self.out, "metrics.jsonl")
        if not storage.exists(uri):
            return []
        return [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]

    def read_progress(self) -> dict[str, Any] | None:
        """What :meth:`report_progress` left last: ``line``, ``epoch``, ``share``, the messages
        ``told`` since the ``start`` (a time, other for each start)."""
        uri = storage.join(self.out, "progress.json")
        if not storage.exists(uri):
            return None
        older: dict[str, Any] = {"epoch": None, "share": None, "told": [], "start": 0.0}
        left: dict[str, Any] = storage.read_json(uri)
        return older | left

    def report_progress(
        self,
        line: str,
        *,
        every_s: float = 2.0,
        epoch: int | None = None,
        share: float | None = None,
    ) -> None:
        """Leave a line for whoever follows the run (the driver, which is another process).

        epoch, share: where the run is, from 1 and 0..1. A line without them is no progress but a
        message, and is kept beside the lines that follow, with the epochs that were done by then.
        """
        if epoch is None:
            self._told.append({"text": line, "after": self._num_done()})
        now_s = time.monotonic()
        if now_s - self._progress_s >= every_s:
            self._progress_s = now_s
            left = {"line": line, "epoch": epoch, "share": share}
            beside = {"told": self._told, "start": self._start_s}
            try:
                storage.write_json(storage.join(self.out, "progress.json"), left | beside)
            except OSError:  # a line is not worth a training, nor are the tries again
                self._progress_s = time.monotonic() + _BACK_OFF_S

    def _num_done(self) -> int:
        """Epochs that are committed; of storage that fails just now, those known of."""
        try:
            return len(self.read_metrics())
        except OSError:
            return int(self._told[-1]["after"]) if self._told else 0

    def _checkpoint_files(self) -> list[storage.FileInfo]:
        return storage.list_files(storage.join(self.out, _CHECKPOINTS))


def best_epoch(history: list[EpochMetrics]) -> int:
    """The epoch (from 1) with the highest validation J; the last one where there is no J."""
    return best_epochs(history, 1)[0]


def best_epochs(history: list[EpochMetrics], count: int) -> list[int]:
    """The epochs (from 1) with the highest validation J, of equal J (as 0 at first) with the
    highest F, of equals the first one first; those without a J come after, the last one first."""
    scored = [m for m in history if m["val_j"] is not None]
    scored.sort(key=lambda m: (-m["val_j"], -(m.get("val_f") or 0.0), m["epoch"]))
    others = [m for m in reversed(history) if m["val_j"] is None]
    return [int(m["epoch"]) for m in (*scored, *others)][:count]


def summary_rows(history: list[EpochMetrics]) -> list[tuple[str, Any]]:
    """How a run ended, and the epoch that counts: the last lines of its job."""
    last, best = history[-1], history[best_epoch(history) - 1]
    return [
        ("epochs", len(history)),
        ("steps", last.get("steps")),
        ("loss", last["loss"]),
        ("best epoch", best["epoch"]),
        ("val J", best["val_j"]),
        ("val F", best.get("val_f")),
        ("clips/s", last["clips_per_s"]),
        ("stall", last["stall"]),
        ("trained s", sum(epoch["seconds"] for epoch in history)),
    ]


def _epoch_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}"
