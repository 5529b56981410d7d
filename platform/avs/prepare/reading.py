"""Prepared shards read back into clips: for a retry of rejects and for the contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq

from avs import storage
from avs.schema import Clip, Source, read_clips

__all__ = ["read_rows", "read_shard"]


def read_shard(uri: str) -> Iterator[Clip]:
    """All clips of a shard, in their order; written again they give the same bytes."""
    with storage.local_copy(uri) as path, pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        for number in range(file.num_row_groups):
            (row,) = read_clips(file, [number], names)
            yield _clip(row)


def read_rows(uri: str, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some rows and columns of a shard; from S3 no more than these are fetched."""
    with storage.open_file(uri) as stream, pq.ParquetFile(stream) as file:
        return read_clips(file, rows, columns)


def _clip(row: dict[str, Any]) -> Clip:
    source = Source(
        uri=row.pop("source_uri"),
        size_bytes=row.pop("source_size_bytes"),
        version=row.pop("source_version"),
    )
    return Clip(source=source, **row)
