"""The evaluation job: J and F of a checkpoint on a prepared split, with and without its sound.

plan (clip, donor of the swapped sound) -> score (1 clip : 1 row, actor pool) -> metrics, report
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from avs import storage
from avs.errors import ConfigError, DataError
from avs.inference.conditions import choose_donors
from avs.inference.config import EvaluateConfig
from avs.inference.object_scores import object_lines, sum_objects
from avs.inference.pool import map_in_pool
from avs.inference.scoring import ClipScorer, combine, protocol_text, spread_out
from avs.inference.visible import check_objects
from avs.progress import Progress
from avs.report.evaluation import write_report
from avs.telemetry import JobRun, count_items, job_run, stage, use_run, write_summary
from avs.training.checkpoint import Checkpoint, check_alignment, load_checkpoint
from avs.training.feed import ClipReader
from avs.training.lineage import clip_ids, overlap_warnings, read_lineage
from avs.training.resolve import find_checkpoint

__all__ = ["evaluate"]


def evaluate(config: EvaluateConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Write ``out/metrics.json`` and ``out/report.html``; returns the metrics.

    Raises:
        ConfigError, CheckpointError, DataError: before any clip is scored.
    """
    out, prepared = storage.absolute(config.out), storage.absolute(config.data.prepared)
    found = find_checkpoint(config.checkpoint)
    checkpoint = load_checkpoint(found.uri)
    if config.objects:
        check_objects(checkpoint)
    if storage.exists(storage.join(out, "weights.safetensors")):
        raise ConfigError(f"out={out} is a checkpoint, whose files would be lost: give another.")
    reader = ClipReader(prepared, split=config.split)
    names, trained = reader.manifest.format.class_names, checkpoint.clip.class_names
    if names != trained:
        raise DataError(
            f"{prepared} has {len(names)} classes ({', '.join(names[:3])}, ...), the checkpoint "
            f"was trained for {len(trained)}: evaluate it on data of the same kind."
        )
    check_alignment(checkpoint, reader.manifest.audio_alignment, prepared=prepared)
    say(f"evaluate: {found} on {len(reader)} clips of {config.split}")
    leaks = overlap_warnings(
        read_lineage(checkpoint.uri), clip_ids(prepared, reader.manifest, split=config.split)
    )
    for leak in leaks:
        say(f"evaluate: warning: {leak}")
    start_s = time.monotonic()
    with job_run("evaluate", out=out) as run:
        rows = _score(config, reader, checkpoint.uri, prepared, run, say)
        metrics = _finish(config, checkpoint, rows, [*reader.manifest.warnings, *leaks], say)
        seconds = time.monotonic() - start_s
        write_summary(out, run=run, seconds=seconds, rows=_summary(metrics), say=say)
    return metrics


def _finish(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    rows: list[dict[str, Any]],
    warnings: list[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Sum up the rows; write and tell the metrics."""
    out, prepared = storage.absolute(config.out), storage.absolute(config.data.prepared)
    try:
        conditions = combine(
            rows,
            num_classes=checkpoint.model.num_classes,
            batch_size=config.batch_size,
            protocol=config.protocol,
        )
    except ValueError:
        raise DataError(f"split={config.split} of {prepared} has no ground truth.") from None
    metrics = _metrics(config, checkpoint.uri, conditions)
    metrics["data_warnings"] = warnings
    if config.objects:
        metrics["objects"] = sum_objects(rows)
    names = checkpoint.clip.class_names
    write_report(out, metrics=metrics, rows=rows, run=_run_of(checkpoint.uri), class_names=names)
    storage.write_json(storage.join(out, "metrics.json"), metrics)
    for line in table_lines(metrics):
        say(line)
    say(f"evaluate: -> {out}/report.html")
    return metrics


class ScoreClip:
    """Body of a worker: a :class:`ClipScorer` that is measured, and logged for its run."""

    def __init__(self, run: JobRun, **arguments: Any) -> None:
        use_run(run)
        self._scorer = ClipScorer(**arguments)

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """The scorer's row of a task that names its clip."""
        with stage("evaluate", "score", clip_id=task["clip_id"]):
            row = self._scorer(task)
        count_items(1, job="evaluate", status="ok")
        return row


def table_lines(metrics: dict[str, Any]) -> list[str]:
    """J and F with the true, the silent and the swapped sound, as the jobs print them."""
    lines = [f"{'sound':<10}{'J':>8}{'F':>8}   {protocol_text(metrics)}"]
    for name in ("true", "silent", "swapped"):
        score = metrics["conditions"][name]
        lines.append(f"{name:<10}{score['j']:>8.3f}{score['f']:>8.3f}")
    return lines + object_lines(metrics)


def _score(
    config: EvaluateConfig,
    reader: ClipReader,
    checkpoint: str,
    prepared: str,
    run: JobRun,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    ids = reader.clip_ids()
    donors = choose_donors(reader.categories(), ids)
    count = len(reader)
    shown = spread_out(config.num_pictures, count)
    tasks = [
        {"index": i, "donor": donors[i], "picture": i in shown, "clip_id": ids[i]}
        for i in range(count)
    ]
    arguments = {
        "run": run,
        "checkpoint": checkpoint,
        "prepared": prepared,
        "split": config.split,
        "device": config.scale.device,
        "objects": config.objects,
    }
    progress = Progress("evaluate", total=count, unit="clips", say=say)
    rows = []
    scored = map_in_pool(ScoreClip, tasks, arguments=arguments, scale=config.scale, name="evaluate")
    for row in scored:
        rows.append(row)
        progress.add(1)
    return rows


def _metrics(config: EvaluateConfig, checkpoint: str, conditions: dict[str, Any]) -> dict[str, Any]:
    true = conditions["true"]
    return {
        "protocol": config.protocol.value,
        "batch_size": config.batch_size,
        "split": config.split,
        "checkpoint": checkpoint,
        "prepared": config.data.prepared,
        "num_clips": true["num_clips"],
        **{f"{key}_{name}": conditions[name][key] for name in conditions for key in ("j", "f")},
        "conditions": conditions,
    }


def _summary(metrics: dict[str, Any]) -> list[tuple[str, Any]]:
    rows = [
        (f"{key.upper()} {name} sound", metrics[f"{key}_{name}"])
        for name in metrics["conditions"]
        for key in ("j", "f")
    ]
    return [("clips", metrics["num_clips"]), *rows, ("warnings", len(metrics["data_warnings"]))]


def _run_of(checkpoint: str) -> str | None:
    """The run folder that holds the checkpoint, if it lies in one (for its curves)."""
    run = checkpoint.rpartition("/checkpoints/")[0]
    return run if run and storage.exists(storage.join(run, "metrics.jsonl")) else None
