"""The prepare run, but for who executes it: list, plan, shards that are missing, manifest.

``execute`` runs a function on items anywhere, in any order. What is written does not depend on
it: Ray Data in the job, a loop in tests that kill the run at chosen points.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from avs import storage
from avs.datasets import DataConfig, metadata_notes
from avs.errors import DataError
from avs.lease import Lease
from avs.prepare.config import PrepareConfig
from avs.prepare.folder import claim_folder, clear_folder, finish_folder, write_rejects
from avs.prepare.leaks import content_leaks, report_leaks, source_leaks
from avs.prepare.manifest import Manifest
from avs.prepare.plan import Plan, ShardPlan, make_plan
from avs.prepare.records import Reject, ShardRecord, read_records
from avs.prepare.rejects import REJECTS, check_budget, common_messages
from avs.prepare.shard import write_shard
from avs.prepare.throughput import RunTiming, throughput_table
from avs.progress import Progress
from avs.schema import ClipFormat
from avs.telemetry import log_line, reject

__all__ = ["Execute", "run_prepare"]

Execute = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]

# Fewer clips say nothing about speed.
_TABLE_FROM_CLIPS = 10


@dataclass(frozen=True, slots=True)
class _Task:
    """A shard to write, with its record where only its rejects are tried again."""

    plan: ShardPlan
    previous: ShardRecord | None


def run_prepare(
    config: PrepareConfig, execute: Execute, *, num_cores: int, say: Callable[[str], None]
) -> Manifest:
    """Prepare into ``config.out``; run again, it does only what is missing.

    ``num_cores`` is what ``execute`` spreads over, for the throughput table.

    Raises:
        DataError: the data set cannot be listed, ``out`` holds another configuration's shards, or
            a user's own splits leak.
        LeaseError: another run writes ``out``.
        RejectBudgetError: more rejects than allowed; the manifest is written all the same.
    """
    out = storage.absolute(config.out)
    root = storage.absolute(config.data.root)
    config = replace(config, data=replace(config.data, root=root))
    plan = make_plan(config)
    leaks = source_leaks(plan.sources)
    report_leaks(leaks, dataset=config.data.name, allow=config.allow_leaks)  # before any decoding
    with Lease(out, job="prepare", say=say) as lease:
        claim_folder(out, config.data)
        done = read_records(out, plan.shards)
        tasks = _tasks(plan, done, retry=config.retry_rejects)
        clear_folder(out, {shard.name for shard in plan.shards}, changes=bool(tasks))
        if done:
            say(f"prepare: {len(done)} of {len(plan.shards)} shards are there already")
        write = partial(_write, config=config.data, form=plan.form, out=out, owner=lease.owner)
        timing = _write_all(tasks, done, partial(execute, write), num_cores=num_cores, say=say)
        lease.check()
        records = [done[shard.name] for shard in plan.shards]
        leaks += content_leaks(records)
        warnings = [f"{count} x {note}" for note, count in metadata_notes(plan.sources).items()]
        try:
            warnings += report_leaks(leaks, dataset=config.data.name, allow=config.allow_leaks)
        except DataError:  # found after all decoding: what else was found is kept
            write_rejects(out, records)
            raise
        manifest = finish_folder(
            out, records, config, plan.form, warnings=warnings, check=lease.check
        )
    rejects = [reject for record in records for reject in record.rejects]
    _tell(manifest, rejects, config.out, say)
    if sum(shard.num_sources for shard in timing.shards) >= _TABLE_FROM_CLIPS:
        for line in throughput_table(timing):
            say(f"prepare: {line}")
    check_budget(manifest.counts, rejects, max_ratio=config.max_reject_ratio)
    return manifest


def _tasks(plan: Plan, done: dict[str, ShardRecord], *, retry: bool) -> list[_Task]:
    return [
        _Task(shard, done.get(shard.name))
        for shard in plan.shards
        if shard.name not in done or (retry and done[shard.name].rejects)
    ]


def _write(
    task: _Task, *, config: DataConfig, form: ClipFormat, out: str, owner: str
) -> ShardRecord:
    return write_shard(task.plan, config, form, out=out, owner=owner, previous=task.previous)


def _write_all(
    tasks: Sequence[_Task],
    done: dict[str, ShardRecord],
    execute: Callable[[Sequence[_Task]], Iterator[ShardRecord]],
    *,
    num_cores: int,
    say: Callable[[str], None],
) -> RunTiming:
    """Execute the tasks, put their records into ``done``, and say how it goes."""
    num_rejects = 0
    shards = []
    total = sum(_num_sources(task) for task in tasks)
    sizes = {task.plan.name: _num_sources(task) for task in tasks}
    progress = Progress("prepare", total=total, unit="clips", say=say)
    begun_s = time.perf_counter()
    for record in execute(tasks) if tasks else ():
        done[record.name] = record
        num_rejects += len(record.rejects)
        if record.timing:
            shards.append(record.timing)
            _log(record)
        note = f"{num_rejects} rejected" if num_rejects else ""
        progress.add(sizes[record.name], note)
    wall_s = time.perf_counter() - begun_s
    return RunTiming(shards=shards, wall_s=wall_s, num_cores=num_cores)


def _log(record: ShardRecord) -> None:
    """What happened to single clips of a shard of this run; its worker has counted them."""
    log_line(f"{record.name}: {record.num_clips} ok, {len(record.rejects)} rejected", stage="write")
    for left in record.rejects:
        reject(left.clip_id, job="prepare", stage=left.stage, reason=left.told, counts=False)
    for clip_id, warnings in record.warnings.items():
        for warning in warnings:
            log_line(warning, level=logging.WARNING, stage="decode", clip_id=clip_id)


def _num_sources(task: _Task) -> int:
    """How many clips a task decodes."""
    return len(task.previous.rejects) if task.previous else len(task.plan.sources)


def _tell(
    manifest: Manifest, rejects: Sequence[Reject], out: str, say: Callable[[str], None]
) -> None:
    counts = manifest.counts
    say(
        f"prepare: {counts['ok']} ok, {counts['rejected']} rejected -> {out} "
        f"(revision {manifest.revision})"
    )
    for reason, count in common_messages((r.uri, r.message) for r in rejects)[:3]:
        say(f"prepare: rejected {count} x {reason} ({REJECTS} has all)")
    for warning in manifest.warnings:
        say(f"prepare: warning: {warning}")
