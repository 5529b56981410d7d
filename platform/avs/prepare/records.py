"""What a finished shard leaves beside it: the commit record that resuming and the manifest read.

A record is written after its shard file and removed before that file is replaced. So a record
that is there always describes the file that is there, wherever a writer was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from avs import storage
from avs.errors import DataError
from avs.prepare.plan import ShardPlan

__all__ = [
    "RECORDS",
    "SHARDS",
    "Reject",
    "ShardRecord",
    "ShardTiming",
    "read_records",
    "record_uri",
    "shard_uri",
    "write_record",
]

SHARDS = "shards"
RECORDS = "_records"
_NUM_READERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """A source that gave no clip, with the reason. ``stage``: list, read or decode."""

    clip_id: str
    split: str
    uri: str
    stage: str
    error_type: str
    message: str

    @property
    def told(self) -> str:
        """The reason as log lines have it."""
        return f"{self.error_type}: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTiming:
    """Seconds that a worker spent on ``num_sources`` sources of one shard.

    ``decode_s`` is the part of ``clips_s`` in which the decoder worked.
    """

    num_sources: int
    decode_s: float
    clips_s: float
    checks_s: float
    write_s: float


@dataclass(kw_only=True, slots=True)
class ShardRecord:
    """What a finished shard holds; ``num_clips`` sources became ``num_rows`` rows.

    ``contents`` maps the clip id of each row to the hash of its frames and sound. ``statistics``
    are the sums of :mod:`avs.prepare.statistics`. ``warnings`` maps the id of a source to what
    was odd about it. ``timing`` is for the run that wrote the shard and is not saved: the same
    input gives the same record.
    """

    name: str
    split: str
    hash: str
    num_clips: int = 0
    num_rows: int = 0
    size_bytes: int = 0
    sha256: str = ""
    rejects: list[Reject] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    timing: ShardTiming | None = field(default=None, compare=False)


def shard_uri(out: str, name: str) -> str:
    """Where a shard of the prepared folder ``out`` lies."""
    return storage.join(out, SHARDS, name)


def record_uri(out: str, name: str) -> str:
    """Where the record of the shard ``name`` lies."""
    return storage.join(out, RECORDS, f"{name}.json")


def write_record(out: str, record: ShardRecord) -> None:
    """Commit a shard: from now on it counts as finished."""
    plain = asdict(record)
    del plain["timing"]
    storage.write_json(record_uri(out, record.name), plain)


def read_records(out: str, plans: Sequence[ShardPlan]) -> dict[str, ShardRecord]:
    """Records, by shard name, of the plans that are finished with the same clips and settings.

    A shard whose file is missing or has another size is not finished.
    """
    there = {info.path for info in storage.list_files(storage.join(out, RECORDS))}
    files = storage.list_files(storage.join(out, SHARDS))
    size_bytes = {info.path: info.size_bytes for info in files}
    begun = [plan for plan in plans if f"{plan.name}.json" in there]
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        found = pool.map(lambda plan: _read(record_uri(out, plan.name)), begun)
        return {
            record.name: record
            for plan, record in zip(begun, found, strict=True)
            if record is not None
            and record.hash == plan.hash
            and (not record.num_rows or size_bytes.get(plan.name) == record.size_bytes)
        }


def _read(uri: str) -> ShardRecord | None:
    try:
        plain: dict[str, Any] = storage.read_json(uri)
    except DataError:  # damaged from outside: its shard is done again
        return None
    known = {f.name for f in fields(ShardRecord)}  # a later version may have added keys
    values = {key: value for key, value in plain.items() if key in known}
    return ShardRecord(**{**values, "rejects": [Reject(**r) for r in plain["rejects"]]})
