"""What a sweep leaves: the best trial as a configuration, its checkpoint, the table, the report.

``best.yaml`` is the trial's own configuration, one worker included, so training it again gives the
trial's scores. ``best.json`` makes the sweep's folder a ``checkpoint=`` by itself.
"""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from avs import storage
from avs.config import dump
from avs.errors import AvsError
from avs.overrides import quote_override
from avs.report.sweep import write_sweep_report
from avs.training.checkpoint import copy_checkpoint, resolve_checkpoint
from avs.tuning.config import TuneConfig
from avs.tuning.leaderboard import best_of, pareto_front
from avs.tuning.plan import SweepPlan
from avs.tuning.records import Status, TrialRecord, trial_folder

__all__ = ["train_command", "write_results", "write_tables"]

_HYDRA = {
    "defaults": [
        "_self_",
        {"override hydra/job_logging": "none"},
        {"override hydra/hydra_logging": "none"},
    ],
    "hydra": {"run": {"dir": "."}, "output_subdir": None},
}


def write_results(config: TuneConfig, plan: SweepPlan) -> TrialRecord:
    """Write best.yaml, checkpoint, best.json, front/, trials.json and report.html; the best trial.

    Raises:
        AvsError: no trial has done an epoch; with the first one's reason where it failed.
    """
    best = best_of(plan.records)
    if best is None:
        write_tables(config, plan)
        failed = [record for record in plan.records if record.status is Status.FAILED]
        reason = failed[0].error if failed else "none has done an epoch: raise search.max_seconds"
        raise AvsError(f"every trial failed: {reason}" if failed else f"no best trial, {reason}")
    out = config.out
    source = resolve_checkpoint(trial_folder(out, best.name))
    copy = storage.join(out, "checkpoint")
    # While the copy is replaced, the trial's own checkpoint is the best one: one is always whole.
    _point_to(out, source, best)
    storage.write_bytes(storage.join(out, "best.yaml"), _configuration(config, best))
    copy_checkpoint(source, copy)
    _point_to(out, copy, best)
    storage.remove(storage.join(out, "front"))
    for record in pareto_front(plan.records):
        uri = storage.join(out, "front", f"{record.name}.yaml")
        storage.write_bytes(uri, _configuration(config, record))
    write_tables(config, plan, is_written=True)
    return best


def _point_to(out: str, checkpoint: str, best: TrialRecord) -> None:
    inside = checkpoint.removeprefix(f"{out}/")
    storage.write_json(storage.join(out, "best.json"), {"checkpoint": inside, "val_j": best.val_j})


def write_tables(config: TuneConfig, plan: SweepPlan, *, is_written: bool = False) -> None:
    """Write trials.json and report.html of the trials so far.

    is_written: best.yaml and the copy of the best checkpoint are there; before, the tables have no
    command, and the checkpoint is the trial's own.
    """
    best = best_of(plan.records)
    checkpoint = None if best is None else trial_folder(config.out, best.name)
    table: dict[str, Any] = {
        "best": None if best is None else best.row(),
        "command": train_command(config.out) if is_written else None,
        "checkpoint": storage.join(config.out, "checkpoint") if is_written else checkpoint,
        "front": [record.name for record in pareto_front(plan.records)],
        "seconds": round(plan.seconds, 1),
        "trials": [record.row() for record in plan.records],
    }
    storage.write_json(storage.join(config.out, "trials.json"), table)
    write_sweep_report(
        storage.join(config.out, "report.html"),
        plan.records,
        dimensions=config.space(),
        command=table["command"],
        num_epochs=config.train.epochs,
    )


def train_command(out: str) -> str:
    """The command that trains the best trial again, as it is to be typed into a shell."""
    if storage.is_local(out):
        folder, first = out, ""
        target = storage.join(out, "best")
    else:  # Hydra reads configurations from local folders only
        folder, target = ".", f"{out}/best"
        first = f"aws s3 cp {shlex.quote(storage.join(out, 'best.yaml'))} best.yaml && "
    return (
        f"{first}python jobs/train.py --config-dir {shlex.quote(folder)} --config-name best "
        f"{quote_override(f'out={target}')}"
    )


def _configuration(config: TuneConfig, record: TrialRecord) -> bytes:
    """A trial as a configuration of jobs/train.py, where to being left open."""
    values = dump(config.with_values(record.values, out=config.out))
    text = yaml.safe_dump({**_HYDRA, **values, "out": "???"}, sort_keys=False)
    return f"# trial {record.name}: validation J {record.val_j:.4f}\n{text}".encode()
