"""Clip rows: what is written is what is read, with avs and without it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_clips import BINARY, random_clip

from avs.errors import DataError
from avs.schema import (
    IGNORE_INDEX,
    SCHEMA_VERSION,
    Clip,
    ClipFormat,
    arrow_schema,
    check_schema,
    read_clips,
    write_clips,
)

FORM = ClipFormat(num_frames=3, height_px=8, width_px=12, class_names=BINARY)
NO_SOUND = ClipFormat(
    num_frames=3, height_px=8, width_px=12, class_names=BINARY, with_waveform=False
)


@pytest.fixture
def shard(tmp_path: Path) -> tuple[str, list[Clip]]:
    clips = [random_clip(f"s4/x/{k}", form=FORM, seed=k) for k in range(3)]
    path = str(tmp_path / "a b.parquet")
    write_clips(clips, path, FORM)
    return path, clips


def _columns(clip: Clip) -> dict[str, Any]:
    plain = {f.name: getattr(clip, f.name) for f in fields(clip) if f.name != "source"}
    source = {f"source_{f.name}": getattr(clip.source, f.name) for f in fields(clip.source)}
    return {**plain, **source}


def test_every_column_comes_back_bit_equal_in_any_order(shard: tuple[str, list[Clip]]) -> None:
    path, clips = shard
    with pq.ParquetFile(path) as file:
        rows = read_clips(file, [2, 0, 2], arrow_schema(FORM).names)
    for row, clip in zip(rows, (clips[2], clips[0], clips[2]), strict=True):
        wanted = _columns(clip)
        assert set(row) == set(wanted)
        for name, value in wanted.items():
            if isinstance(value, np.ndarray):
                assert row[name].dtype == value.dtype, name
                assert row[name].shape == value.shape, name
                assert row[name].tobytes() == value.tobytes(), name
            else:
                assert row[name] == value, name


def test_plain_pyarrow_reads_a_shard(shard: tuple[str, list[Clip]]) -> None:
    path, clips = shard
    table = pq.read_table(path)
    field = table.schema.field("frames")
    assert field.type == pa.large_binary()
    dtype, shape = field.metadata[b"dtype"].decode(), json.loads(field.metadata[b"shape"])
    assert (dtype, shape) == ("uint8", [3, 8, 12, 3])
    frames = np.frombuffer(table["frames"][1].as_py(), dtype).reshape(shape)
    assert np.array_equal(frames, clips[1].frames)
    assert table["categories"].to_pylist()[0] == ["dog", "café"]
    metadata = table.schema.metadata
    assert json.loads(metadata[b"avs.class_names"]) == list(BINARY)
    assert int(metadata[b"avs.ignore_index"]) == IGNORE_INDEX
    assert int(metadata[b"avs.schema_version"]) == SCHEMA_VERSION


def test_a_row_is_a_row_group(shard: tuple[str, list[Clip]]) -> None:
    with pq.ParquetFile(shard[0]) as file:
        assert file.num_row_groups == file.metadata.num_rows == 3
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_same_clips_give_the_same_bytes(shard: tuple[str, list[Clip]], tmp_path: Path) -> None:
    path, clips = shard
    write_clips(clips, str(tmp_path / "again"), FORM)
    assert (tmp_path / "again").read_bytes() == Path(path).read_bytes()


def test_the_waveform_may_be_left_out(tmp_path: Path) -> None:
    path = str(tmp_path / "x.parquet")
    write_clips([random_clip(form=NO_SOUND)], path, NO_SOUND)
    with pq.ParquetFile(path) as file:
        assert "waveform" not in file.schema_arrow.names
        check_schema(file.schema_arrow, path)
        assert read_clips(file, [0], ["clip_id"]) == [{"clip_id": "s4/x/a"}]


@pytest.mark.parametrize(
    "change",
    [
        {"frames": np.zeros((3, 8, 8, 3), np.uint8)},
        {"masks": np.zeros((3, 8, 12), np.int64)},
        {"log_mel": np.zeros((2, 1, 96, 64), np.float32)},
    ],
)
def test_an_array_of_another_shape_or_type_is_not_written(
    tmp_path: Path, change: dict[str, np.ndarray]
) -> None:
    clip = random_clip("s4/x/odd", form=FORM, **change)
    with pytest.raises(AssertionError, match=f"s4/x/odd: {next(iter(change))} is"):
        write_clips([clip], str(tmp_path / "x.parquet"), FORM)


def test_no_rows_are_no_rows(shard: tuple[str, list[Clip]]) -> None:
    with pq.ParquetFile(shard[0]) as file:
        assert read_clips(file, [], ["frames"]) == []


def test_another_schema_version_is_refused_with_the_way_out() -> None:
    schema = arrow_schema(FORM)
    metadata = {**schema.metadata, b"avs.schema_version": b"99"}
    with pytest.raises(DataError, match=r"x\.parquet has schema version 99.*run jobs/prepare"):
        check_schema(schema.with_metadata(metadata), "x.parquet")


def test_a_parquet_file_of_something_else_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"x\.parquet is not a clip shard"):
        check_schema(pa.schema([("clip_id", pa.string())]), "x.parquet")


@pytest.mark.parametrize("column", ["frames", "mask_valid", "categories"])
def test_a_missing_column_is_refused_by_name(column: str) -> None:
    schema = arrow_schema(FORM)
    less = schema.remove(schema.get_field_index(column))
    with pytest.raises(DataError, match=rf"x\.parquet has no column '{column}'.*run jobs/prepare"):
        check_schema(less, "x.parquet")
    check_schema(schema.append(pa.field("later", pa.int8())), "x.parquet")
