"""Writing one shard: the unit of work, of resuming and of failure.

The worker decodes its clips, writes them to a Parquet file under a temporary name as they come,
moves it into place, and last writes a commit record with checksum and rejects. Frames never enter
the object store, and an hour of video never sits in memory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO

from avs import storage
from avs.datasets import ClipSource, DataConfig
from avs.errors import AvsError, DataError, DecoderError
from avs.lease import check_owner
from avs.media.sandbox import decoder_busy_s
from avs.prepare.clip import prepare_rows
from avs.prepare.leaks import content_hash
from avs.prepare.plan import ShardPlan
from avs.prepare.reading import read_shard
from avs.prepare.records import (
    Reject,
    ShardRecord,
    ShardTiming,
    record_uri,
    shard_uri,
    write_record,
)
from avs.prepare.statistics import ClipSums
from avs.schema import Clip, ClipFormat, write_clips
from avs.storage_remote import StorageError
from avs.telemetry import count_items, observe_seconds, reject, stage

__all__ = ["write_shard"]

# More rows of one video than this wait on disk until it is known to be whole.
_ROWS_IN_MEMORY = 64
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def write_shard(
    plan: ShardPlan,
    config: DataConfig,
    form: ClipFormat,
    *,
    out: str,
    owner: str,
    previous: ShardRecord | None = None,
) -> ShardRecord:
    """Decode, write and commit one shard; a clip that fails becomes a reject of the record.

    With ``previous``, the record of the finished shard, only its rejects are decoded again and
    the other clips are taken from the shard; when the same clips fail, nothing is written.

    Raises:
        LeaseError: ``owner`` no longer holds ``out``; nothing was committed.
    """
    record = ShardRecord(name=plan.name, split=plan.split, hash=plan.hash)
    clock = _Clock()
    if previous is None:
        rows = _prepared(plan.sources, config, record, clock)
    else:
        rejected = {reject.clip_id for reject in previous.rejects}
        again = [source for source in plan.sources if source.clip_id in rejected]
        new = {source.clip_id: rows for source, rows in _spooled(again, config, record, clock)}
        if record.rejects == previous.rejects:
            return previous
        rows = _merged(plan, previous, new, record, out)
    _commit(_checked(rows, record, clock), record, form, out=out, owner=owner)
    record.timing = clock.timing(len(previous.rejects if previous else plan.sources))
    observe_seconds(record.timing.write_s, job="prepare", stage="write")
    return record


class _Clock:
    """Where the time of a shard goes; what is neither making nor checking clips is writing."""

    def __init__(self) -> None:
        self._begun_s, self._decoded_s = time.perf_counter(), decoder_busy_s()
        self._spent_s = {"clips": 0.0, "checks": 0.0}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun_s = time.perf_counter()
        try:
            yield
        finally:
            self._spent_s[name] += time.perf_counter() - begun_s

    def timing(self, num_sources: int) -> ShardTiming:
        clips_s, checks_s = self._spent_s["clips"], self._spent_s["checks"]
        return ShardTiming(
            num_sources=num_sources,
            decode_s=decoder_busy_s() - self._decoded_s,
            clips_s=clips_s,
            checks_s=checks_s,
            write_s=time.perf_counter() - self._begun_s - clips_s - checks_s,
        )


class _Rows:
    """The rows of one source in order; those of a long video go to disk."""

    def __init__(self) -> None:
        self._first: list[Clip] = []
        self._num_more = 0
        self._file: IO[bytes] | None = None

    def add(self, clip: Clip) -> None:
        if len(self._first) < _ROWS_IN_MEMORY:
            self._first.append(clip)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="avs-")  # noqa: SIM115 (closed once read)
        pickle.dump(clip, self._file)
        self._num_more += 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[Clip]:
        """Once: what was on disk is gone after it."""
        yield from self._first
        if self._file is not None:
            with self._file:
                self._file.seek(0)
                for _ in range(self._num_more):
                    yield pickle.load(self._file)


def _prepared(
    sources: Sequence[ClipSource], config: DataConfig, record: ShardRecord, clock: _Clock
) -> Iterator[Clip]:
    for _, rows in _spooled(sources, config, record, clock):
        yield from rows


def _spooled(
    sources: Sequence[ClipSource], config: DataConfig, record: ShardRecord, clock: _Clock
) -> Iterator[tuple[ClipSource, _Rows]]:
    """The sources that could be used, with their rows; rejects and warnings go into the record."""
    for source in sources:
        rows = _Rows()
        warnings: list[str] = []
        try:
            with clock.stage("clips"), stage("prepare", "decode", clip_id=source.clip_id):
                for clip in prepare_rows(source, config, warnings):
                    rows.add(clip)
        except (DecoderError, StorageError):  # says nothing about the clip
            raise
        except Exception as error:  # one bad clip must not cost its shard
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            rows.close()
            record.rejects.append(_reject(source, error))
            continue
        record.num_clips += 1
        count_items(1, job="prepare", status="ok")
        if warnings:
            record.warnings[source.clip_id] = warnings
        yield source, rows


def _merged(
    plan: ShardPlan, previous: ShardRecord, new: dict[str, _Rows], record: ShardRecord, out: str
) -> Iterator[Clip]:
    """Rows of the finished shard and new ones, in the order of the plan."""
    ids = {source.clip_id for source in plan.sources}

    def of_source(clip: Clip) -> str:
        # A whole video is a source with several rows, "<id of the source>@<ms>".
        return clip.clip_id if clip.clip_id in ids else clip.clip_id.rpartition("@")[0]

    shard = read_shard(shard_uri(out, plan.name)) if previous.num_rows else iter(())
    kept = groupby(shard, key=of_source)
    rejected = {reject.clip_id for reject in previous.rejects}
    for source in plan.sources:
        if source.clip_id in new:
            yield from new[source.clip_id]
        elif source.clip_id not in rejected:
            found, rows = next(kept)
            assert found == source.clip_id, f"{plan.name} has {found} for {source.clip_id}"
            yield from rows
            record.num_clips += 1
    warnings = previous.warnings | record.warnings
    record.warnings = {
        s.clip_id: warnings[s.clip_id] for s in plan.sources if s.clip_id in warnings
    }


def _checked(rows: Iterable[Clip], record: ShardRecord, clock: _Clock) -> Iterator[Clip]:
    """The rows on their way to the file, each noted in the record."""
    sums = ClipSums()
    for clip in rows:
        with clock.stage("checks"):
            record.num_rows += 1
            record.contents[clip.clip_id] = content_hash(clip)
            sums.add(clip)
        yield clip
    record.statistics = sums.as_dict()


def _reject(source: ClipSource, error: Exception) -> Reject:
    where = "read" if isinstance(error, (DataError, OSError)) else "decode"
    left = Reject(
        clip_id=source.clip_id,
        split=source.split,
        uri=source.source.uri,
        stage="list" if source.problem else where,
        error_type=type(error).__name__,
        message=str(error) if isinstance(error, AvsError) else f"failed: {error!r}",
    )
    reject(left.clip_id, job="prepare", stage=left.stage, reason=left.told)
    return left


def _commit(
    rows: Iterator[Clip], record: ShardRecord, form: ClipFormat, *, out: str, owner: str
) -> None:
    """Old record away, new file in place, new record: a kill between leaves no wrong pair."""
    target = shard_uri(out, record.name)
    temporary = _temporary(target)
    try:
        write_clips(rows, str(temporary), form)
        check_owner(out, owner)
        storage.remove(record_uri(out, record.name))
        if record.num_rows:
            with temporary.open("rb") as file:
                record.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            record.size_bytes = temporary.stat().st_size
            storage.put_file(temporary, target)
        else:  # a file of an earlier run, whose clips could still be read
            storage.remove(target)
    finally:
        temporary.unlink(missing_ok=True)
    check_owner(out, owner)
    write_record(out, record)


def _temporary(target: str) -> Path:
    if storage.is_local(target):
        path = storage.temporary_name(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
    handle, name = tempfile.mkstemp(suffix=".parquet")
    os.close(handle)
    return Path(name)
