"""Writing one shard: the unit of work, of resuming and of failure.

The worker decodes its clips, writes the Parquet file under a temporary name, moves it into place,
and last writes a commit record with checksum and rejects. Frames never enter the object store.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from avs import storage
from avs.datasets import ClipSource, DataConfig
from avs.errors import AvsError, DataError, DecoderError
from avs.lease import check_owner
from avs.media.sandbox import decoder_busy_s
from avs.prepare.clip import prepare_clip_with_warnings
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
from avs.prepare.statistics import sum_clips
from avs.schema import Clip, ClipFormat, write_clips

__all__ = ["write_shard"]

_Made = tuple[list[Clip], list[str]]  # the clips of one source, and what was odd about it


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
    start_s, decoded_s = time.perf_counter(), decoder_busy_s()
    record = ShardRecord(name=plan.name, split=plan.split, hash=plan.hash)
    kept: dict[str, _Made] = _kept_clips(plan, previous, out) if previous else {}
    clips = _prepare_clips(plan.sources, config, record, kept)
    if previous and record.rejects == previous.rejects:
        return previous
    clips_s = time.perf_counter()
    record.num_rows = len(clips)
    record.contents = {clip.clip_id: content_hash(clip) for clip in clips}
    record.statistics = sum_clips(clips)
    checks_s = time.perf_counter()
    _commit(clips, record, form, out=out, owner=owner)
    record.timing = ShardTiming(
        num_sources=len(plan.sources) - len(kept),
        decode_s=decoder_busy_s() - decoded_s,
        clips_s=clips_s - start_s,
        checks_s=checks_s - clips_s,
        write_s=time.perf_counter() - checks_s,
    )
    return record


def _prepare_clips(
    sources: Sequence[ClipSource],
    config: DataConfig,
    record: ShardRecord,
    kept: dict[str, _Made],
) -> list[Clip]:
    """The clips of the sources in order; numbers, rejects and warnings go into the record."""
    clips: list[Clip] = []
    for source in sources:
        try:
            made, warnings = kept.get(source.clip_id) or prepare_clip_with_warnings(source, config)
        except DecoderError:  # says nothing about the clip
            raise
        except Exception as error:  # one bad clip must not cost its shard
            record.rejects.append(_reject(source, error))
            continue
        clips += made
        record.num_clips += 1
        if warnings:
            record.warnings[source.clip_id] = warnings
    return clips


def _reject(source: ClipSource, error: Exception) -> Reject:
    stage = "read" if isinstance(error, (DataError, OSError)) else "decode"
    return Reject(
        clip_id=source.clip_id,
        split=source.split,
        uri=source.source.uri,
        stage="list" if source.problem else stage,
        error_type=type(error).__name__,
        message=str(error) if isinstance(error, AvsError) else f"failed: {error!r}",
    )


def _kept_clips(plan: ShardPlan, previous: ShardRecord, out: str) -> dict[str, _Made]:
    """The clips and warnings of a finished shard by the id of their source."""
    if not previous.num_rows:
        return {}
    ids = {source.clip_id for source in plan.sources}
    kept: dict[str, _Made] = {}
    for clip in read_shard(shard_uri(out, plan.name)):
        # A whole video is a source with several rows, "<id of the source>@<ms>".
        of_source = clip.clip_id if clip.clip_id in ids else clip.clip_id.rpartition("@")[0]
        warnings = previous.warnings.get(of_source, [])
        kept.setdefault(of_source, ([], warnings))[0].append(clip)
    return kept


def _commit(
    clips: list[Clip], record: ShardRecord, form: ClipFormat, *, out: str, owner: str
) -> None:
    """Old record away, new file in place, new record: a kill between leaves no wrong pair."""
    target = shard_uri(out, record.name)
    temporary = _write_file(clips, record, form, target) if clips else None
    try:
        check_owner(out, owner)
        storage.remove(record_uri(out, record.name))
        if temporary:
            storage.put_file(temporary, target)
        else:  # a file of an earlier run, whose clips could still be read
            storage.remove(target)
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    check_owner(out, owner)
    write_record(out, record)


def _write_file(clips: list[Clip], record: ShardRecord, form: ClipFormat, target: str) -> Path:
    """The shard under a temporary name; its size and checksum go into the record."""
    temporary = _temporary(target)
    try:
        write_clips(clips, str(temporary), form)
        with temporary.open("rb") as file:
            record.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        record.size_bytes = temporary.stat().st_size
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _temporary(target: str) -> Path:
    if storage.is_local(target):
        path = storage.temporary_name(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
    handle, name = tempfile.mkstemp(suffix=".parquet")
    os.close(handle)
    return Path(name)
