"""The bucket job on Ray Data, and the pool of Predictors that evaluation shares.

    list videos (driver) -> segment (1 video : 1 row, actor pool) -> report.json

An actor holds one Predictor. Outputs go straight from the worker to storage and only a small row
comes back. A video's folder ends with commit.json: without it, or with another source, checkpoint
or parameters in it, the video is done again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from avs import storage
from avs.config import dump
from avs.datasets.folder import list_videos
from avs.errors import AvsError, ConfigError, DataError, DecoderError, MediaError, RejectBudgetError
from avs.inference.config import SegmentConfig
from avs.inference.outputs import OutputKind, folder_name, write_outputs
from avs.inference.predictor import Predictor, checkpoint_hash
from avs.inference.visible import check_objects
from avs.lease import Lease, check_owner
from avs.progress import Progress
from avs.scale import ScaleConfig
from avs.schema import Source
from avs.training.checkpoint import load_checkpoint
from avs.training.resolve import find_checkpoint

__all__ = ["map_in_pool", "segment_bucket"]

COMMIT = "commit.json"


def segment_bucket(
    config: SegmentConfig, *, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Segment every video of ``config.input``; run again, it does only what is missing or changed.

    Returns the rows of ``out/report.json``: ``video``, ``status`` (ok or rejected), ``reason``, ...

    Raises:
        CheckpointError, ConfigError, DataError, LeaseError: before any video is touched.
        RejectBudgetError: more rejects than ``max_reject_ratio``; the report is written.
    """
    out = storage.absolute(config.out)
    chosen = find_checkpoint(config.checkpoint)
    checkpoint = chosen.uri
    loaded = load_checkpoint(checkpoint)  # a broken one ends here, not in every worker
    if config.objects:
        check_objects(loaded)
    say(f"segment: with {chosen}")
    videos = _outside(out, list_videos(storage.absolute(config.input)))
    job = _Job(
        checkpoint=checkpoint,
        key=_job_key(config, checkpoint_hash(checkpoint)),
        out=out,
        outputs=tuple(config.outputs),
        threshold=config.threshold,
        masks_per_s=config.mask_rate,
        objects=config.objects,
        device=config.scale.device,
    )
    rows: dict[str, dict[str, Any]] = {}
    with Lease(out, job="segment", say=say) as lease:
        storage.remove(storage.join(out, "report.json"))
        for name, source in videos:
            done = _committed(job, name, source)
            if done:
                rows[name] = done
        todo = [{"name": n, "source": dump(s)} for n, s in videos if n not in rows]
        if rows:
            say(f"segment: {len(rows)} of {len(videos)} videos are done already")
        progress = Progress("segment", total=len(todo), unit="videos", say=say)
        arguments = {"job": job, "owner": lease.owner}
        for row in map_in_pool(_SegmentWorker, todo, arguments=arguments, scale=config.scale):
            rows[row["video"]] = row
            rejected = sum(r["status"] == "rejected" for r in rows.values())
            progress.add(1, f"{rejected} rejected" if rejected else "")
        lease.check()
        report = [rows[name] for name, _ in videos]
        storage.write_json(storage.join(out, "report.json"), report)
    rejected = sum(row["status"] == "rejected" for row in report)
    say(f"segment: {len(report) - rejected} ok, {rejected} rejected -> {out}/report.json")
    if config.max_reject_ratio is not None and rejected > config.max_reject_ratio * len(report):
        raise RejectBudgetError(
            f"{rejected} of {len(report)} videos were rejected, more than max_reject_ratio="
            f"{config.max_reject_ratio:g} allows; {out}/report.json has the reasons."
        )
    return report


def _outside(out: str, videos: list[tuple[str, Source]]) -> list[tuple[str, Source]]:
    """The videos that do not lie below ``out``: overlays of an earlier run are no input."""
    kept = [(name, source) for name, source in videos if not source.uri.startswith(f"{out}/")]
    if not kept:
        raise DataError(f"input= holds no video but those below out={out}: give another input=.")
    return kept


def map_in_pool(
    worker: type[Any],
    tasks: list[dict[str, Any]],
    *,
    arguments: dict[str, Any],
    scale: ScaleConfig,
) -> Iterator[dict[str, Any]]:
    """Run ``worker(**arguments)(task)`` for every task on a pool of actors, rows as they finish.

    Tasks and rows cross as JSON, one block a task, so that a slow task delays no other.

    Raises:
        ConfigError: the cluster has not the CPUs or GPUs for one worker.
    """
    if not tasks:
        return
    size = min(_pool_size(scale), len(tasks))
    dataset = ray.data.from_items(
        [{"task": json.dumps(t)} for t in tasks], override_num_blocks=len(tasks)
    ).map(
        _JsonWorker,  # type: ignore[arg-type]  # Ray takes a class; its annotation says so for map_batches only
        fn_constructor_kwargs={"worker": worker, "arguments": arguments},
        compute=ActorPoolStrategy(size=size),
        num_cpus=scale.cpus_per_worker,
        num_gpus=scale.gpus_per_worker or None,
    )
    try:
        for row in dataset.iter_rows():
            yield json.loads(row["row"])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AvsError):
            raise error.cause from error
        raise


class _JsonWorker:
    """Actor body: builds the real worker once, then answers task by task."""

    def __init__(self, worker: type[Any], arguments: dict[str, Any]) -> None:
        self._worker = worker(**arguments)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"row": json.dumps(self._worker(json.loads(row["task"])))}


def _pool_size(scale: ScaleConfig) -> int:
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    size = scale.num_workers
    for each, resource in ((scale.cpus_per_worker, "CPU"), (scale.gpus_per_worker, "GPU")):
        if each:
            size = min(size, int(there.get(resource, 0) / each))
    if size < 1:
        raise ConfigError(
            f"scale asks for {scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} GPUs a "
            f"worker; the cluster has {there.get('CPU', 0):g} and {there.get('GPU', 0):g}."
        )
    return size


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What every worker of the job knows; ``key`` stands for checkpoint and parameters."""

    checkpoint: str
    key: str
    out: str
    outputs: tuple[OutputKind, ...]
    threshold: float
    masks_per_s: int | None
    objects: bool
    device: str


class _SegmentWorker:
    """Segments one video a call: decode, forward, write outputs, commit."""

    def __init__(self, job: _Job, owner: str) -> None:
        self._job, self._owner = job, owner
        self._predictor = Predictor.from_checkpoint(job.checkpoint, device=job.device)

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        name, source = task["name"], Source(**task["source"])
        start_s = time.monotonic()
        folder = storage.join(self._job.out, folder_name(name))
        row: dict[str, Any] = {"video": name, "status": "ok", "reason": ""}
        try:
            row |= self._segment(source, folder)
        except MediaError as error:
            row |= {"status": "rejected", "reason": str(error)}
        except DecoderError:  # says nothing about the video
            raise
        except Exception as error:  # one bad video must not end the job
            row |= {"status": "rejected", "reason": f"failed: {type(error).__name__}: {error}"}
        row["seconds"] = round(time.monotonic() - start_s, 3)
        if row["status"] == "ok":
            check_owner(self._job.out, self._owner)
            files = row.pop("files")
            commit = {"key": self._job.key, "source": dump(source), "row": row, "files": files}
            storage.write_json(storage.join(folder, COMMIT), commit)
        return row

    def _segment(self, source: Source, folder: str) -> dict[str, Any]:
        storage.remove(folder)  # parts of a killed attempt, or of another checkpoint
        with storage.local_copy(source.uri) as path, tempfile.TemporaryDirectory() as scratch:
            track = self._predictor.segment_video(
                path,
                threshold=self._job.threshold,
                masks_per_s=self._job.masks_per_s,
                objects=self._job.objects,
            )
            names = write_outputs(track, Path(scratch), self._job.outputs, video_path=path)
            for output in names:
                storage.put_file(Path(scratch) / output, storage.join(folder, output))
        return {
            "folder": folder.removeprefix(self._job.out).strip("/"),
            "num_masks": len(track),
            "duration_s": track.duration_s,
            "warnings": track.warnings,
            "files": names,
            "outputs": [k.value for k in self._job.outputs],
        }


def _committed(job: _Job, name: str, source: Source) -> dict[str, Any] | None:
    uri = storage.join(job.out, folder_name(name), COMMIT)
    if not storage.exists(uri):
        return None
    found = storage.read_json(uri)
    if found["key"] != job.key or found["source"] != dump(source):
        return None
    there = {info.path for info in storage.list_files(uri.removesuffix(f"/{COMMIT}"))}
    return dict(found["row"]) if there.issuperset(found["files"]) else None


def _job_key(config: SegmentConfig, weights: str) -> str:
    parts = [weights, config.threshold, sorted(k.value for k in config.outputs)]
    if config.objects:  # outputs made before there was a choice stay good
        parts.append("objects")
    if config.mask_rate != 1:
        parts.append(f"masks_per_s={config.mask_rate}")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
