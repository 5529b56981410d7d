"""A run of the bucket job: the listing, round by round, under the lease of the output folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from avs import storage
from avs.datasets.folder import iter_videos, no_video
from avs.errors import AvsError, DataError, RejectBudgetError
from avs.inference.bucket.job import BucketJob, Video, committed, job_key
from avs.inference.bucket.pipeline import outcomes
from avs.inference.bucket.plan import blocks, plan_pools, rounds
from avs.inference.bucket.report import GALLERY, INDEX, REPORT, BucketReport
from avs.inference.bucket.watch import looks
from avs.inference.bucket.write import PARTS
from avs.inference.config import SegmentConfig
from avs.inference.outputs import need_video
from avs.inference.predictor import checkpoint_hash
from avs.inference.visible import check_objects
from avs.lease import LEASE_NAME, Lease
from avs.models.audio import AUDIO_NETWORKS
from avs.progress import Progress
from avs.scale import ScaleConfig
from avs.telemetry import SUMMARY, JobRun, job_run, reject, write_summary
from avs.training.checkpoint import Checkpoint, load_checkpoint
from avs.training.resolve import find_checkpoint

__all__ = ["BucketCounts", "segment_bucket"]

_LOOKERS = 16  # requests at a time that ask which videos are done
_LOGS = "logs/segment-"


@dataclass(slots=True)
class BucketCounts:
    """Videos by what became of them; ``num_done`` of those that are ok were so before the run."""

    num_ok: int = 0
    num_rejected: int = 0
    num_done: int = 0


def segment_bucket(config: SegmentConfig, *, say: Callable[[str], None] = print) -> BucketCounts:
    """Segment every video of ``config.input``; run again, it does only what is missing or changed.

    ``out`` gets a folder a video, index.parquet, report.json (up to 10,000 rows), index.html and
    summary.json. With ``config.watch`` it goes on with what is added to the input, until stopped.

    Raises:
        CheckpointError, ConfigError, DataError, LeaseError: before any video is touched.
        RejectBudgetError: more rejects than ``max_failed_ratio``; all of the above is written.
    """
    out = storage.absolute(config.out)
    chosen = find_checkpoint(config.checkpoint)
    loaded = load_checkpoint(chosen.uri)  # a broken one ends here, not in every worker
    if config.objects:
        check_objects(loaded)
    say(f"segment: with {chosen}")
    listing = partial(_listing, storage.absolute(config.input), out, may_be_empty=config.watch)
    _check_input(listing())
    with ExitStack() as stack:
        lease = stack.enter_context(Lease(out, job="segment", say=say))
        run = stack.enter_context(job_run("segment", out=out))
        report = stack.enter_context(BucketReport(out, may_repeat=config.watch))
        job = _job(config, loaded, uri=chosen.uri, out=out, owner=lease.owner)
        bucket = _Bucket(job, config.scale, report, run, say)
        bucket.clear()
        for found in looks(listing, every_s=config.watch_every_s if config.watch else None):
            num_before = bucket.num_seen
            for videos in rounds(found):
                bucket.round(videos)
            lease.check()
            if bucket.num_seen > num_before:
                bucket.tell(max_failed_ratio=config.max_failed_ratio)
    return bucket.counts


def _listing(source: str, out: str, *, may_be_empty: bool) -> Iterator[Video]:
    """The videos below ``source`` but for those below ``out``: overlays of an earlier run."""
    below = f"{out}/"
    is_empty, is_all_out = True, True
    for name, found in iter_videos(source):
        is_empty = False
        if not found.uri.startswith(below):
            is_all_out = False
            yield Video(name=name, source=found)
    if may_be_empty:
        return
    if is_empty:
        raise no_video(source)
    if is_all_out:
        raise DataError(
            f"input={source} holds no video but those below out={out}: give another input=."
        )


def _check_input(videos: Iterator[Video]) -> None:
    """What is wrong with the input is told before anything is written."""
    next(videos, None)


def _job(config: SegmentConfig, loaded: Checkpoint, *, uri: str, out: str, owner: str) -> BucketJob:
    return BucketJob(
        checkpoint=uri,
        key=job_key(config, checkpoint_hash(uri)),
        out=out,
        owner=owner,
        outputs=tuple(config.outputs),
        threshold=config.threshold,
        masks_per_s=config.mask_rate,
        objects=config.objects,
        device=config.scale.device,
        clip=loaded.clip,
        input_kind=AUDIO_NETWORKS[loaded.model.audio_network].build.input_kind,
    )


class _Bucket:
    """What all rounds of a run share."""

    def __init__(
        self,
        job: BucketJob,
        scale: ScaleConfig,
        report: BucketReport,
        run: JobRun,
        say: Callable[[str], None],
    ) -> None:
        self._job, self._scale, self._report, self._run, self._say = job, scale, report, run, say
        self._begun_s = time.monotonic()
        self._is_fresh = True
        self._num_done = 0
        self.num_seen = 0

    @property
    def counts(self) -> BucketCounts:
        """Of all videos so far."""
        counts = self._report.counts
        return BucketCounts(counts["ok"], counts["rejected"], self._num_done)

    def clear(self) -> None:
        """Remove what an earlier run told of itself, and parts that it did not join."""
        for name in (REPORT, INDEX, GALLERY, SUMMARY, PARTS):
            storage.remove(storage.join(self._job.out, name))
        own = (LEASE_NAME, _LOGS)
        files = storage.iter_files(self._job.out)
        self._is_fresh = all(info.path.startswith(own) for info in files)

    def round(self, videos: list[Video]) -> None:
        """Segment those that are not done; every one of them gets one row."""
        self.num_seen += len(videos)
        todo = videos if self._is_fresh else self._todo(videos)
        pending = {video.name for video in todo}
        progress = Progress("segment", total=len(todo), unit="videos", say=self._say)
        for row in self._rows(todo):
            if row["video"] not in pending:  # a call that was repeated
                continue
            pending.remove(row["video"])
            self._report.add(row)
            if row["status"] != "ok":
                self._tell_rejected(row)
            rejected = self.counts.num_rejected
            progress.add(1, f"{rejected} rejected" if rejected else "")
        if pending:
            some = ", ".join(sorted(pending)[:3])
            raise AvsError(f"{len(pending)} videos came to no end ({some}): run the job again.")

    def _tell_rejected(self, row: dict[str, Any]) -> None:
        """In the log of the run; the worker has counted it."""
        stage, reason = row["stage"], row["reason"]
        reject(row["video"], job="segment", stage=stage, reason=reason, counts=False)

    def _rows(self, todo: list[Video]) -> Iterator[dict[str, Any]]:
        if not todo:
            return
        drawn = need_video(self._job.outputs)
        dealt = blocks(todo, num_workers=self._scale.num_workers, one_by_one=drawn)
        cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        pools = plan_pools(self._scale, cluster=cluster, num_blocks=len(dealt))
        yield from outcomes(dealt, self._job, pools, run=self._run)

    def _todo(self, videos: list[Video]) -> list[Video]:
        todo: list[Video] = []
        with ThreadPoolExecutor(_LOOKERS) as threads:
            for video, row in zip(
                videos, threads.map(partial(committed, self._job), videos), strict=True
            ):
                if row is None:
                    todo.append(video)
                else:
                    self._report.add(row)
        num_done = len(videos) - len(todo)
        self._num_done += num_done
        if num_done:
            self._say(f"segment: {num_done} of {len(videos)} videos are done already")
        return todo

    def tell(self, *, max_failed_ratio: float | None) -> None:
        """Write the reports of all videos so far; raises RejectBudgetError."""
        out, counts = self._job.out, self.counts
        storage.remove(storage.join(out, PARTS))  # of videos that were rejected halfway
        self._report.write()
        total = counts.num_ok + counts.num_rejected
        self._say(f"segment: {counts.num_ok} ok, {counts.num_rejected} rejected -> {out}/{REPORT}")
        write_summary(
            out,
            run=self._run,
            seconds=time.monotonic() - self._begun_s,
            rows=[
                ("videos", total),
                ("ok", counts.num_ok),
                ("done before", counts.num_done),
                ("rejected", counts.num_rejected),
                ("index", storage.join(out, INDEX)),
                ("gallery", storage.join(out, GALLERY)),
            ],
            say=self._say,
        )
        if max_failed_ratio is not None and counts.num_rejected > max_failed_ratio * total:
            raise RejectBudgetError(
                f"{counts.num_rejected} of {total} videos were rejected, more than "
                f"max_failed_ratio={max_failed_ratio:g} allows; {out}/{REPORT} has the reasons."
            )
