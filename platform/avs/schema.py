"""Clip rows: the only place with the column names, dtypes and shapes of prepared Parquet shards.

Arrays are ``large_binary`` in C order with dtype and shape in the field metadata: 10 to 30 times
faster to write and read than nested lists or ``fixed_shape_tensor``, and any Parquet reader opens
them. One row is one row group, so that training reads single clips in any order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avs.errors import DataError

__all__ = [
    "IGNORE_INDEX",
    "SCHEMA_VERSION",
    "Clip",
    "ClipFormat",
    "Source",
    "arrow_schema",
    "check_schema",
    "decode_column",
    "read_clips",
    "write_clips",
]

SCHEMA_VERSION = 1
IGNORE_INDEX = 255
LOG_MEL_SHAPE = (1, 96, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFormat:
    """What all rows of one prepared folder share: T frames of H x W and the class names."""

    num_frames: int
    height_px: int
    width_px: int
    class_names: tuple[str, ...]
    with_waveform: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a clip came from: URI, size, and etag or modification time of its main file."""

    uri: str
    size_bytes: int
    version: str


@dataclass(kw_only=True, slots=True)
class Clip:
    """One clip. T, H, W follow the data set's :class:`ClipFormat`.

    Arrays: ``frame_time_s`` float64 [T]; ``frames`` uint8 [T, H, W, 3] RGB; ``log_mel`` float32
    [T, 1, 96, 64]; ``waveform`` int16 [n] mono 16 kHz; ``masks`` uint8 [T, H, W] class index, 0 =
    background; ``mask_valid`` bool [T], False = no ground truth; ``frame_valid`` bool [T], False =
    padding. ``native_height_px`` and ``native_width_px`` are the displayed size of the source.
    """

    clip_id: str
    dataset: str
    subset: str
    split: str
    source: Source
    categories: list[str]
    native_height_px: int
    native_width_px: int
    frame_time_s: np.ndarray
    frames: np.ndarray
    log_mel: np.ndarray
    masks: np.ndarray
    mask_valid: np.ndarray
    frame_valid: np.ndarray
    waveform: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))


def arrow_schema(form: ClipFormat) -> pa.Schema:
    """The Arrow schema of a shard, with class names and schema version in its metadata."""
    t, h, w = form.num_frames, form.height_px, form.width_px
    fields = [
        pa.field("clip_id", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("subset", pa.string()),
        pa.field("split", pa.string()),
        pa.field("source_uri", pa.string()),
        pa.field("source_size_bytes", pa.int64()),
        pa.field("source_version", pa.string()),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("native_height_px", pa.int32()),
        pa.field("native_width_px", pa.int32()),
        _array_field("frame_time_s", np.float64, (t,)),
        _array_field("frames", np.uint8, (t, h, w, 3)),
        _array_field("log_mel", np.float32, (t, *LOG_MEL_SHAPE)),
        _array_field("masks", np.uint8, (t, h, w)),
        _array_field("mask_valid", np.bool_, (t,)),
        _array_field("frame_valid", np.bool_, (t,)),
    ]
    if form.with_waveform:
        fields.append(_array_field("waveform", np.int16, (-1,)))
    metadata = {
        "avs.schema_version": str(SCHEMA_VERSION),
        "avs.class_names": json.dumps(form.class_names),
        "avs.ignore_index": str(IGNORE_INDEX),
    }
    return pa.schema(fields, metadata=metadata)


def write_clips(clips: Iterable[Clip], path: str, form: ClipFormat) -> None:
    """Write clips to one local Parquet file, a row group a clip, in the given order."""
    schema = arrow_schema(form)
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for clip in clips:
            writer.write_table(pa.Table.from_pylist([_to_row(clip, schema)], schema=schema))


def read_clips(
    file: pq.ParquetFile, rows: Sequence[int], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Read ``columns`` of single rows; arrays come as numpy arrays (read-only views)."""
    if not rows:
        return []
    table = file.read_row_groups(list(rows), columns=list(columns), use_threads=False)
    decoded = {name: decode_column(table, name) for name in columns}
    return [{name: values[i] for name, values in decoded.items()} for i in range(len(rows))]


def decode_column(table: pa.Table, name: str) -> list[Any]:
    """The values of one column: numpy arrays where the field metadata says so."""
    meta = table.schema.field(name).metadata or {}
    if b"dtype" not in meta:
        return list(table[name].to_pylist())
    dtype, shape = np.dtype(meta[b"dtype"].decode()), json.loads(meta[b"shape"])
    return [np.frombuffer(v.as_buffer(), dtype).reshape(shape) for v in table[name]]


def check_schema(schema: pa.Schema, uri: str) -> None:
    """Refuse a Parquet file of another schema version, without a column, or of something else."""
    found = (schema.metadata or {}).get(b"avs.schema_version")
    if found is None:
        raise DataError(f"{uri} is not a clip shard (no avs.schema_version in its metadata).")
    if int(found) != SCHEMA_VERSION:
        raise DataError(
            f"{uri} has schema version {int(found)}, this code reads {SCHEMA_VERSION}: "
            "run jobs/prepare.py again, or use the version of avs that wrote it."
        )
    least = ClipFormat(num_frames=1, height_px=1, width_px=1, class_names=(), with_waveform=False)
    for name in arrow_schema(least).names:
        if name not in schema.names:
            raise DataError(f"{uri} has no column {name!r}: run jobs/prepare.py again.")


def _array_field(name: str, dtype: type, shape: tuple[int, ...]) -> pa.Field:
    metadata = {"dtype": np.dtype(dtype).name, "shape": json.dumps(shape)}
    return pa.field(name, pa.large_binary(), metadata=metadata)


def _to_row(clip: Clip, schema: pa.Schema) -> dict[str, Any]:
    row: dict[str, Any] = {
        "source_uri": clip.source.uri,
        "source_size_bytes": clip.source.size_bytes,
        "source_version": clip.source.version,
    }
    for entry in schema:
        if entry.name in row:
            continue
        value = getattr(clip, entry.name)
        row[entry.name] = _to_bytes(value, entry, clip.clip_id) if entry.metadata else value
    return row


def _to_bytes(value: np.ndarray, entry: pa.Field, clip_id: str) -> bytes:
    dtype, shape = entry.metadata[b"dtype"].decode(), json.loads(entry.metadata[b"shape"])
    fits = len(shape) == value.ndim and all(
        s in (-1, n) for s, n in zip(shape, value.shape, strict=True)
    )
    assert value.dtype == dtype, f"{clip_id}: {entry.name} is {value.dtype}, not {dtype}"
    assert fits, f"{clip_id}: {entry.name} is {value.shape}, not {shape}"
    return np.ascontiguousarray(value).tobytes()
