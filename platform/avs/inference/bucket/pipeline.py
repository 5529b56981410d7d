"""The stages of the bucket job on Ray Data.

    work list -> decode (1 video : N parts) -> segment (1 : 1) -> write (N parts : 1 row)

Decoding and writing are tasks, which need no torch; segmenting is a pool of actors with a network
each. Frames go from decoder to segmenter through the object store, because a GPU would otherwise
wait for decoding; masks go on as run-lengths.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

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
    data: Dataset = ray.data.from_arrow([_table(block) for block in blocks])
    data.context.target_max_block_size = _MAX_BLOCK_BYTES
    data = data.map_batches(
        _named("Decode", partial(_decode, job=job, run=run)),
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(pools.num_decoders),
        num_cpus=pools.decoder_cpus,
    )
    data = data.map_batches(
        Segment,
        fn_constructor_kwargs={"job": job, "run": run, "mask_threads": pools.mask_threads},
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pools.num_segmenters),
        num_cpus=pools.segmenter_cpus,
        num_gpus=pools.segmenter_gpus or None,
    )
    data = data.map_batches(
        _named("Write", partial(_write, job=job, run=run)),
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(pools.num_writers),
        num_cpus=pools.writer_cpus,
    )
    data.set_name("segment")
    with own_errors():
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            for message in _messages(table):
                assert isinstance(message, Outcome)
                yield message.row


class Segment:
    """Actor body of the segmenters."""

    def __init__(self, job: BucketJob, run: JobRun, mask_threads: int) -> None:
        from avs.inference.bucket.segment import WindowsSegmenter  # torch: only here

        use_run(run)
        self._segmenter = Made(WindowsSegmenter, job=job, mask_threads=mask_threads)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        cuts: list[Cut] = []
        for message in _messages(table):
            if isinstance(message, Cut):
                cuts.append(message)
            else:
                yield _table([message])
        yield _table(self._segmenter.get()(cuts))


def _decode(table: pa.Table, *, job: BucketJob, run: JobRun) -> Iterator[pa.Table]:
    use_run(run)
    for message in _messages(table):
        assert isinstance(message, Video)
        for made in cut_video(message, job):
            yield _table([made])


def _write(table: pa.Table, *, job: BucketJob, run: JobRun) -> Iterator[pa.Table]:
    use_run(run)
    for message in _messages(table):
        made = write_masks(message, job) if isinstance(message, Masks) else message
        if made is not None:
            _measure(made.row)
        yield _table([] if made is None else [made])


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


def _named(name: str, function: partial[Iterator[pa.Table]]) -> Callable[[pa.Table], Any]:
    """A function that Ray's dashboard shows as MapBatches(``name``)."""

    def call(table: pa.Table) -> Iterator[pa.Table]:
        return function(table)

    call.__name__ = call.__qualname__ = name
    return call


def _table(messages: Iterable[Message]) -> pa.Table:
    data = [pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL) for message in messages]
    return pa.table([pa.array(data, pa.large_binary())], schema=_SCHEMA)


def _messages(table: pa.Table) -> Iterator[Any]:
    for value in table.column(_COLUMN):
        yield pickle.loads(value.as_buffer())
