"""Batches by Ray Data: tasks on the CPUs that Train has left read what the plan of a rank says.

    rows of a rank's plan -> blocks of some micro-batches (1 block : 1 task) -> arrays, in order

Each rank streams its own plan, because ``streaming_split`` hands blocks to whoever asks first: the
clips of a rank would then depend on the speed of the others. Trade-off: the arrays travel through
the object store and every epoch starts a stream, so a reader in the process
(:func:`avs.training.feed.prefetch`) is better where reading costs next to nothing beside a step.
Where Train holds every CPU, Ray Data would wait without a word:
:func:`avs.training.resources.reading_cpus` counts first.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from numpy.typing import NDArray
from ray.data import DataContext, ExecutionResources
from ray.exceptions import RayTaskError, UserCodeException

from avs.errors import AvsError
from avs.training.batch import Batch
from avs.training.feed import ClipReader

__all__ = ["stream_from_ray"]

_ARRAYS = ("frames", "log_mel", "masks", "mask_valid", "frame_valid", "waveform")
_HEARD = ("audio_embedding", "audio_logits")  # of features, where they are read
_TASK_BYTES = 16 << 20  # what a task reads, at least a micro-batch: well above what a task costs
_STORE_SHARE = 0.25  # of the object store, for the streams of all ranks together


def stream_from_ray(
    reader: ClipReader,
    batches: Iterable[Sequence[int]],
    *,
    ahead: int = 1,
    cpus: float,
    world_size: int,
) -> Generator[Batch]:
    """A :class:`avs.training.feed.Stream` by tasks of Ray Data.

    cpus: of the cluster, for this rank. world_size: ranks that share the object store.

    Raises:
        AvsError: what reading raised.
    """
    rows = [list(batch) for batch in batches]
    if not rows:
        return
    with DataContext.current(_context(cpus, world_size)):
        data = ray.data.from_arrow(_blocks(rows, batch_bytes=len(rows[0]) * reader.clip_bytes))
        arrays = data.map_batches(
            partial(_read, packed=pickle.dumps(reader)),
            batch_size=None,
            num_cpus=min(1.0, cpus),
            zero_copy_batch=True,
        )
    stream: Any = iter(arrays.iter_batches(batch_size=len(rows[0]), prefetch_batches=ahead))
    with closing(stream), _own_errors():
        for columns in stream:
            yield _batch(columns)


def _context(cpus: float, world_size: int) -> DataContext:
    """Settings of one stream; Ray Data copies them into the data set that is made under them."""
    context = DataContext.get_current().copy()
    options = context.execution_options
    options.preserve_order = True
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    store = total.get("object_store_memory", 0.0) * _STORE_SHARE / world_size
    options.resource_limits = ExecutionResources.for_limits(cpu=cpus, object_store_memory=store)
    context.raise_original_map_exception = True  # Ray's own wrapping leaves only its text
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _blocks(rows: Sequence[Sequence[int]], *, batch_bytes: int) -> list[pa.Table]:
    """The rows of whole micro-batches, as many as make a task worth its cost."""
    count = max(1, _TASK_BYTES // batch_bytes)
    parts = [rows[first : first + count] for first in range(0, len(rows), count)]
    return [pa.table({"row": [row for batch in part for row in batch]}) for part in parts]


def _read(block: dict[str, NDArray[np.int64]], *, packed: bytes) -> dict[str, NDArray[Any]]:
    """What a task does: read the rows of a block."""
    try:
        found = _reader(packed).read(block["row"].tolist())
    except AvsError as error:
        # Others are logged as errors of Ray, with the request to report them there.
        raise UserCodeException(error) from error
    named = {name: getattr(found, name) for name in (*_ARRAYS, *_HEARD)}
    return {
        "clip_id": np.array(found.clip_ids, dtype=object),
        "categories": np.array([json.dumps(own) for own in found.categories], dtype=object),
        **{name: values.numpy() for name, values in named.items() if values is not None},
    }


@lru_cache(maxsize=2)  # train and val: the same process reads block after block
def _reader(packed: bytes) -> ClipReader:
    """A reader of this process, which keeps its files open between tasks."""
    reader: ClipReader = pickle.loads(packed)
    return reader


def _batch(columns: dict[str, NDArray[Any]]) -> Batch:
    # Copies: the arrays are views into the object store, which cannot be written to.
    arrays = {n: torch.from_numpy(columns[n].copy()) for n in (*_ARRAYS, *_HEARD) if n in columns}
    return Batch(
        clip_ids=[str(clip_id) for clip_id in columns["clip_id"]],
        categories=[tuple(json.loads(own)) for own in columns["categories"]],
        **arrays,
    )


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what a task raised for the user instead of what Ray wrapped around it."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, UserCodeException):
            raise error.cause.args[0] from None
        raise
