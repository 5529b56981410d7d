"""The sweep on Ray Tune: random, grid or TPE with ASHA early stopping, one process a trial.

A trial is the plain training loop in a Tune function, not a TorchTrainer inside a trial: that
would cost about 15 s a trial and a second set of placement groups on two cores.

A sweep that was killed is rebuilt from its trial folders and not by ``Tuner.restore``. Ray writes
its snapshot of an experiment every few seconds: kill -9 of the driver loses the trials since then
with what the searcher knew of them, and a restored experiment keeps its number of trials and its
resources. Here every trial is written down before it starts, every epoch is committed by the run
itself, and samplers and ASHA are functions of both, so there is no moment at which a kill costs
more than the epoch that was running; the budget and the cluster may change between two starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import ray
import torch
from ray import tune

from avs import storage
from avs.lease import Lease, check_owner
from avs.prepare.manifest import read_manifest
from avs.scale import ScaleConfig
from avs.storage_remote import StorageError
from avs.telemetry import JobRun, current_run, job_run, log_line, use_run, write_summary
from avs.training.config import TrainConfig
from avs.training.loop import train
from avs.training.resources import check_resources
from avs.training.run import Run
from avs.training.state import Worker
from avs.tuning.claim import claim_data, claim_sweep
from avs.tuning.config import Sampler, TuneConfig
from avs.tuning.latency import measure_latency
from avs.tuning.leaderboard import end_line, epoch_line, short_values
from avs.tuning.plan import SweepPlan, max_concurrent
from avs.tuning.records import EPOCH_KEYS, Status, TrialRecord, load_record, trial_folder
from avs.tuning.results import train_command, write_results, write_tables
from avs.tuning.sampling import num_grid_points
from avs.tuning.schedule import PlanSearcher, make_scheduler
from avs.tuning.tpe import check_installed
from avs.tuning.tuner import run_trials

__all__ = ["tune_sweep"]

_TABLES_EVERY_S = 60.0


def tune_sweep(config: TuneConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Search, or go on; write what :mod:`avs.tuning.results` tells below ``config.out``.

    Returns the row of the best trial: ``trial``, ``val_j``, ``val_f``, ``epochs``, ``values``, ....

    Raises:
        ConfigError: a trial would not fit the cluster; ``out`` holds something else.
        AvsError: every trial failed; the message is the first one's.
        KeyboardInterrupt: Ctrl-C; the tables are written, the same command goes on.
    """
    config = config.map_paths(storage.absolute)
    for folder in config.data.folders:
        manifest = read_manifest(folder)
        manifest.split_shards("val")
    config = config.for_data(semantic=len(manifest.format.class_names) > 2)
    if config.search.sampler is Sampler.TPE:
        check_installed()
    if config.search.sampler is Sampler.GRID:
        _tell_grid(config, say)
    one, start_s = config.trial_config().scale, time.monotonic()
    check_resources(one, say=say)
    with Lease(config.out, job="tune", say=say) as lease:
        claim_data(config.out, config.data.folders, is_begun=claim_sweep(config))
        # Not lease.check: Ray pickles the plan with its searcher, and a lease holds a thread.
        plan = SweepPlan(config, check_lease=partial(check_owner, config.out, lease.owner))
        with job_run("tune", out=config.out) as run:
            _tell_start(config, plan, say)
            _run(config, plan, one, owner=lease.owner, say=say)
            lease.check()
            best = write_results(config, plan)
            say(f"tune: best is {best.name}: J {best.val_j:.3f} with {short_values(best.values)}")
            say(f"tune: train it with: {train_command(config.out)}")
            rows, seconds = _summary(plan, best), time.monotonic() - start_s
            write_summary(config.out, run=run, seconds=seconds, rows=rows, say=say)
    return best.row()


def _summary(plan: SweepPlan, best: TrialRecord) -> list[tuple[str, Any]]:
    ends = {status.value: sum(r.status is status for r in plan.records) for status in Status}
    return [
        ("trials", len(plan.records)),
        *ends.items(),
        ("epochs", sum(len(record.history) for record in plan.records)),
        ("searched s", plan.seconds),
        ("best", best.name),
        ("best J", best.val_j),
        ("best values", short_values(best.values)),
    ]


def _tell_grid(config: TuneConfig, say: Callable[[str], None]) -> None:
    num_points, limit = num_grid_points(config.full_space()), config.search.num_trials
    if limit is not None and limit < num_points:
        say(f"tune: search.num_trials={limit} takes the first of {num_points} grid points")


def _tell_start(config: TuneConfig, plan: SweepPlan, say: Callable[[str], None]) -> None:
    if plan.records:
        num_done = len(plan.records) - plan.num_resumed
        say(f"tune: of {len(plan.records)} trials {num_done} ended, {plan.num_resumed} to go on")
    if plan.is_time_up:
        say(f"tune: search.max_seconds={config.search.max_seconds:g} are spent")


def _run(
    config: TuneConfig,
    plan: SweepPlan,
    one: ScaleConfig,
    *,
    owner: str,
    say: Callable[[str], None],
) -> None:
    """Run trials until the plan has none. Raises KeyboardInterrupt where that was cut short."""
    first = plan.next()
    if first is None:
        return

    told = current_run()

    def tune_trial(values: dict[str, Any]) -> None:
        _trial(config, values["trial"], owner=owner, run=told)

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    search = config.search
    run_trials(
        tune_trial,
        name_of=lambda values: f"trial-{values['trial']}",
        scale=one,
        tune_config=tune.TuneConfig(
            num_samples=-1,  # the plan says when it is over
            max_concurrent_trials=max_concurrent(one, there, limit=search.max_concurrent_trials),
            search_alg=PlanSearcher(plan, first),
            scheduler=make_scheduler(config, plan),
            time_budget_s=plan.seconds_left,
            reuse_actors=True,  # a new process would import torch again, some seconds a trial
        ),
        bookkeeping=storage.join(config.out, "_tune"),
        progress=_Live(config, plan, say),
        max_failures=search.max_failures,
    )
    plan.save_seconds()
    cut_short = any(record.status is Status.UNFINISHED for record in plan.records)
    if cut_short and not plan.is_time_up:  # Ray takes Ctrl-C for itself and returns
        write_tables(config, plan)
        raise KeyboardInterrupt


def _trial(config: TuneConfig, name: str, *, owner: str, run: JobRun | None) -> None:
    """One trial: the training loop in its own run folder, an epoch a report."""
    use_run(run)
    out = config.out
    values = load_record(out, name).values
    own: TrainConfig = config.with_values(values, out=trial_folder(out, name))
    Run(own.out).claim(own)
    train(
        own,
        Worker(
            device=torch.device(own.scale.device),
            check_lease=lambda: check_owner(out, owner),
            after_epoch=lambda metrics: tune.report({key: metrics[key] for key in EPOCH_KEYS}),
        ),
    )
    if config.search.with_latency:
        measure_latency(own)


class _Live:
    """Keeps the plan up to date and tells how it goes."""

    def __init__(self, config: TuneConfig, plan: SweepPlan, say: Callable[[str], None]) -> None:
        self._config, self._plan, self._say = config, plan, say
        self._written_s = time.monotonic()

    def on_result(self, config: dict[str, Any], result: dict[str, Any]) -> None:
        """An epoch."""
        if any(key not in result for key in EPOCH_KEYS):  # Ray's own, at the end of a function
            return
        record = self._plan.add_epoch(config["trial"], result)
        num_epochs = self._config.train.epochs
        line = epoch_line(record, self._plan.records, num_epochs=num_epochs)
        if line:
            self._say(line)

    def on_end(self, config: dict[str, Any]) -> None:
        """A trial at its end."""
        self._tell_end(self._plan.end(config["trial"]))

    def on_failure(self, config: dict[str, Any], error: str, *, final: bool) -> None:
        """A failure, told in any case."""
        record = self._plan.fail(config["trial"], error, final=final)
        log_line(f"{record.name} failed: {error}", level=logging.WARNING, stage="trial")
        if final:
            self._tell_end(record)
        else:
            self._say(f"tune: {record.name} failed and is tried again: {error}")

    def _tell_end(self, record: TrialRecord) -> None:
        records = self._plan.records
        num_ended = sum(r.status is not Status.UNFINISHED for r in records)
        self._say(end_line(record, num_ended=num_ended, num_trials=self._config.search.num_trials))
        now_s = time.monotonic()
        if now_s - self._written_s >= _TABLES_EVERY_S:
            self._written_s = now_s
            with suppress(StorageError):  # tables alone; they are written again
                write_tables(self._config, self._plan)
