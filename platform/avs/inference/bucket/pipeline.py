"""The stages of the bucket job on Ray Data.

    work list -> decode (1 video : N parts) -> segment (1 : 1) -> write (N parts : 1 row)

Beside GPUs writers are workers of their own, as a GPU would otherwise wait for them. Without, each
segmenter writes: more processes on the same cores only take time. All are pools of actors, those
of segmenters with a network each: of tasks, Ray ends the processes between two calls where there
are more than cores, and each one started anew costs seconds. Frames go from decoder to segmenter
through the object store, because a GPU would otherwise wait for decoding; masks go on as
run-lengths.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from avs.inference.bucket.decode import cut_video
from avs.inference.bucket.job import BucketJob, Cut, Masks, Message, Outcome, Video
from avs.inference.bucket.plan import Pools
from avs.inference.bucket.write import write_masks
from avs.inference.pool import Made, own_errors
from avs.telemetry import JobRun, count_items, log_line, observe_seconds, reject, use_run

__all__ = ["outcomes"]

_COLUMN = "message"
_SCHEMA = pa.schema([(_COLUMN, pa.large_binary())])  # of the smaller kind 2 GB are too much
# Parts of a long video, each 24 MB at 224 px, go on one by one and not when there are 128 MB.
_MAX_BLOCK_BYTES = 32 << 20


def outcomes(
    blocks: list[list[Video]], job: BucketJob, pools: Pools, *, run: JobRun
) -> Iterator[dict[str, Any]]:
    """The rows of the videos as they are over. Ray repeats the calls of a worker or node that dies;
    then, or when two writers join a video at once, its row may come twice."""
    # Not from_arrow: it has a task look at each block, with a whole CPU, which may not be free.
    items = [{_COLUMN: _packed(block)} for block in blocks]
    data: Dataset = ray.data.from_items(items, override_num_blocks=len(items))
    data.context.target_max_block_size = _MAX_BLOCK_BYTES
    for stage, most, cpus, gpus, arguments in _stages(job, pools, run):
        data = data.map_batches(
            stage,
            fn_constructor_kwargs=arguments,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=min(pools.num_segmenters, most), max_size=most),
            num_cpus=cpus,
            num_gpus=gpus,
        )
    data.set_name("segment")
    with own_errors():
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            for message in _messages(table):
                assert isinstance(message, Outcome)
                yield message.row


def _stages(
    job: BucketJob, pools: Pools, run: JobRun
) -> Iterator[tuple[type[_Stage], int, float, float | None, dict[str, Any]]]:
    """Class, largest number, CPUs, GPUs and arguments of the workers of each stage."""
    given: dict[str, Any] = {"job": job, "run": run}
    segment_given = given | {"mask_threads": pools.mask_threads}
    segment = Segment if pools.num_writers else SegmentAndWrite
    count, gpus = pools.num_segmenters, pools.segmenter_gpus or None
    yield Decode, pools.num_decoders, pools.decoder_cpus, None, given
    yield segment, count, pools.segmenter_cpus, gpus, segment_given
    if pools.num_writers:
        yield Write, pools.num_writers, pools.writer_cpus, None, given


class _Stage:
    """Actor body: tables of messages in and out."""

    def __init__(self, job: BucketJob, run: JobRun) -> None:
        use_run(run)
        self._job = job

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        yield _table([])  # of a call that has nothing to tell Ray still wants the columns
        for made in self.handle(_messages(table)):
            yield _table([made])

    def handle(self, messages: Iterable[Any]) -> Iterator[Message]:
        """What becomes of messages; those that are none of its own go on."""
        raise NotImplementedError


class Decode(_Stage):
    """Of the decoders."""

    def handle(self, messages: Iterable[Any]) -> Iterator[Message]:
        """The parts of each video, or its row. A message of the work list is a list of videos."""
        for video in chain.from_iterable(messages):
            yield from cut_video(video, self._job)


class Segment(_Stage):
    """Of the segmenters."""

    def __init__(self, job: BucketJob, run: JobRun, mask_threads: int) -> None:
        from avs.inference.bucket.segment import WindowsSegmenter  # torch: only here

        super().__init__(job, run)
        self._segmenter = Made(WindowsSegmenter, job=job, mask_threads=mask_threads)

    def handle(self, messages: Iterable[Any]) -> Iterator[Message]:
        """The masks of each part; parts of one call share batches."""
        cuts: list[Cut] = []
        for message in messages:
            if isinstance(message, Cut):
                cuts.append(message)
            else:
                yield message
        yield from self._segmenter.get()(cuts)


class Write(_Stage):
    """Of the writers."""

    def handle(self, messages: Iterable[Any]) -> Iterator[Message]:
        """The rows of the videos that are over with these parts."""
        for message in messages:
            made = write_masks(message, self._job) if isinstance(message, Masks) else message
            if made is not None:
                _measure(made.row)
                yield made


class SegmentAndWrite(Segment):
    """Of segmenters that write, too."""

    def __init__(self, job: BucketJob, run: JobRun, mask_threads: int) -> None:
        super().__init__(job, run, mask_threads)
        self._writer = Write(job, run)

    def handle(self, messages: Iterable[Any]) -> Iterator[Message]:
        """The rows of the videos that are over with these parts."""
        return self._writer.handle(super().handle(messages))


def _measure(row: dict[str, Any]) -> None:
    """For metrics and logs; all rows come by here."""
    name = row["video"]
    if row["status"] != "ok":
        reject(name, job="segment", stage=row["stage"], reason=row["reason"])
        return
    count_items(1, job="segment", status="ok")
    for stage, seconds in row["timings"].items():
        observe_seconds(seconds, job="segment", stage=stage)
    log_line("segmented", level=logging.INFO, stage="write", clip_id=name)


def _table(messages: Iterable[Message]) -> pa.Table:
    return pa.table([pa.array(map(_packed, messages), pa.large_binary())], schema=_SCHEMA)


def _packed(message: Message | list[Video]) -> bytes:
    return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)


def _messages(table: pa.Table) -> Iterator[Any]:
    for value in table.column(_COLUMN):
        yield pickle.loads(value.as_buffer())
