"""Writing one shard: the unit of work, of resuming and of failure.

The worker decodes its clips, writes the Parquet file under a temporary name, moves it into place,
and last writes a commit record with checksum and rejects. Frames never enter the object store.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avs import storage
from avs.datasets import DataConfig
from avs.errors import AvsError
from avs.lease import check_owner
from avs.prepare.clip import prepare_clip
from avs.prepare.plan import ShardPlan
from avs.schema import Clip, ClipFormat, write_clips

__all__ = ["RECORDS", "SHARDS", "Reject", "ShardRecord", "read_record", "write_shard"]

SHARDS = "shards"
RECORDS = "_records"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """A source that gave no clip, with the reason."""

    clip_id: str
    split: str
    uri: str
    stage: str
    error_type: str
    message: str


@dataclass(kw_only=True, slots=True)
class ShardRecord:
    """What a finished shard holds; ``num_clips`` sources became ``num_rows`` rows."""

    name: str
    split: str
    hash: str
    num_clips: int = 0
    num_rows: int = 0
    size_bytes: int = 0
    sha256: str = ""
    rejects: list[Reject] = field(default_factory=list)


def write_shard(
    plan: ShardPlan, config: DataConfig, form: ClipFormat, *, out: str, owner: str
) -> ShardRecord:
    """Decode, write and commit one shard; a clip that fails becomes a reject of the record."""
    record = ShardRecord(name=plan.name, split=plan.split, hash=plan.hash)
    clips: list[Clip] = []
    for source in plan.sources:
        try:
            clips += prepare_clip(source, config)
            record.num_clips += 1
        except Exception as error:  # one bad clip must not cost its shard
            record.rejects.append(
                Reject(
                    clip_id=source.clip_id,
                    split=source.split,
                    uri=source.source.uri,
                    stage="list" if source.problem else "decode",
                    error_type=type(error).__name__,
                    message=str(error) if isinstance(error, AvsError) else f"failed: {error!r}",
                )
            )
    record.num_rows = len(clips)
    if clips:
        _commit_file(clips, record, form, out=out, owner=owner)
    check_owner(out, owner)
    if not clips:  # a file of an earlier run, whose clips could still be read
        storage.remove(storage.join(out, SHARDS, plan.name))
    storage.write_json(_record_uri(out, plan.name), asdict(record))
    return record


def read_record(out: str, plan: ShardPlan) -> ShardRecord | None:
    """The record of a shard finished with the same clips and configuration, else None."""
    uri = _record_uri(out, plan.name)
    if not storage.exists(uri):
        return None
    plain: dict[str, Any] = storage.read_json(uri)
    if plain["hash"] != plan.hash:
        return None
    if plain["num_rows"] and not storage.exists(storage.join(out, SHARDS, plan.name)):
        return None
    rejects = [Reject(**r) for r in plain.pop("rejects")]
    return ShardRecord(**plain, rejects=rejects)


def _commit_file(
    clips: list[Clip], record: ShardRecord, form: ClipFormat, *, out: str, owner: str
) -> None:
    target = storage.join(out, SHARDS, record.name)
    if storage.is_local(out):
        temporary = storage.temporary_name(target)
        temporary.parent.mkdir(parents=True, exist_ok=True)
    else:
        handle, name = tempfile.mkstemp(suffix=".parquet")
        os.close(handle)
        temporary = Path(name)
    try:
        write_clips(clips, str(temporary), form)
        with temporary.open("rb") as file:
            record.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        record.size_bytes = temporary.stat().st_size
        check_owner(out, owner)
        storage.put_file(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _record_uri(out: str, name: str) -> str:
    return storage.join(out, RECORDS, f"{name}.json")
