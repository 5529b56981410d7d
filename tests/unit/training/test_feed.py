"""The clips that are asked for come, in their order and ahead of time."""

from __future__ import annotations

import pickle
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_clips import SIZE_PX

from avs.errors import DataError
from avs.media.frames import resize_frames
from avs.media.masks import resize_mask
from avs.prepare.manifest import read_manifest, shard_uri
from avs.schema import arrow_schema, read_clips
from avs.training import feed
from avs.training.batch import padding_flags
from avs.training.feed import ClipReader, prefetch


def _whole(prepared: Path, split: str) -> list[dict[str, Any]]:
    rows = []
    for shard in read_manifest(str(prepared)).split_shards(split):
        with pq.ParquetFile(shard_uri(str(prepared), shard.name)) as file:
            names = arrow_schema(read_manifest(str(prepared)).format).names
            rows += read_clips(file, range(shard.num_rows), names)
    return rows


def test_a_batch_holds_the_rows_that_were_asked_for(prepared: Path) -> None:
    rows = _whole(prepared, "train")
    reader = ClipReader(str(prepared), split="train")
    assert len(reader) == len(rows) == 8
    asked = [7, 0, 3, 3]
    batch = reader.read(asked)
    assert batch.clip_ids == [rows[i]["clip_id"] for i in asked]
    assert batch.categories == [tuple(rows[i]["categories"]) for i in asked]
    for slot, i in enumerate(asked):
        assert np.array_equal(batch.frames[slot].permute(0, 2, 3, 1).numpy(), rows[i]["frames"])
        for name in ("log_mel", "masks", "mask_valid", "frame_valid"):
            assert np.array_equal(getattr(batch, name)[slot].numpy(), rows[i][name]), name
    assert reader.categories() == [tuple(r["categories"]) for r in rows]


def test_frames_and_masks_are_resized_together(prepared: Path) -> None:
    (row, *_) = _whole(prepared, "val")
    batch = ClipReader(str(prepared), split="val", image_size_px=32).read([0])
    frames = resize_frames(row["frames"], (32, 32))
    assert np.array_equal(batch.frames[0].permute(0, 2, 3, 1).numpy(), frames)
    masks = np.stack([resize_mask(m, (32, 32)) for m in row["masks"]])
    assert np.array_equal(batch.masks[0].numpy(), masks)
    same = ClipReader(str(prepared), split="val", image_size_px=SIZE_PX).read([0])
    assert np.array_equal(same.masks[0].numpy(), row["masks"])


def test_padding_is_told_only_where_there_is_some(prepared: Path) -> None:
    batch = ClipReader(str(prepared), split="val").read([0, 1])
    assert padding_flags(batch) is None
    batch.frame_valid[1, 4] = False
    flags = padding_flags(batch)
    assert flags is not None
    assert torch.equal(flags, batch.frame_valid)


def test_a_batch_moves_whole(prepared: Path) -> None:
    batch = ClipReader(str(prepared), split="val").read([0])
    moved = batch.to(torch.device("meta"))
    assert moved.clip_ids == batch.clip_ids
    for name in ("frames", "log_mel", "masks", "mask_valid", "frame_valid"):
        assert getattr(moved, name).device.type == "meta"


def test_an_unknown_split_names_the_known_ones(prepared: Path) -> None:
    with pytest.raises(DataError, match=r"split=all has no clips.*Known: test, train, val"):
        ClipReader(str(prepared), split="all")


def test_a_shard_of_another_version_is_refused_when_it_is_read(
    prepared: Path, tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "manifest.json").write_bytes((prepared / "manifest.json").read_bytes())
    for path in (prepared / "shards").iterdir():
        table = pq.read_table(path)
        metadata = {**table.schema.metadata, b"avs.schema_version": b"0"}
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "shards" / path.name)
    with pytest.raises(DataError, match="schema version 0"):
        ClipReader(str(tmp_path), split="val").read([0])


class _SlowReader:
    """Says which batch it read; the first takes longest; 13 cannot be read."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def read(self, rows: list[int]) -> int:
        threading.Event().wait(0.05 if rows[0] == 0 else 0)
        if rows[0] == 13:
            raise DataError("13 is broken")
        self.done.append(rows[0])
        return rows[0]


def test_batches_come_in_order_and_one_is_read_ahead() -> None:
    reader = _SlowReader()
    stream = prefetch(reader, [[k] for k in range(5)])  # type: ignore[arg-type]
    assert next(stream) == 0
    threading.Event().wait(0.05)
    assert reader.done == [0, 1]
    assert list(stream) == [1, 2, 3, 4]
    assert list(prefetch(reader, [])) == []  # type: ignore[arg-type]


def test_an_error_of_the_reader_reaches_the_consumer_after_the_batches_before_it() -> None:
    stream = prefetch(_SlowReader(), [[0], [1], [13], [2]])  # type: ignore[arg-type]
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(DataError, match="13 is broken"):
        next(stream)


def test_more_can_be_read_ahead_and_what_is_not_taken_is_not_read() -> None:
    reader = _SlowReader()
    stream = prefetch(reader, [[k] for k in range(20)], ahead=3)  # type: ignore[arg-type]
    assert next(stream) == 0
    threading.Event().wait(0.05)
    assert reader.done == [0, 1, 2, 3]
    stream.close()
    assert reader.done == [0, 1, 2, 3]


def test_no_more_files_stay_open_than_a_plan_needs(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time here: each of the three shards is opened anew, and rows are still right."""
    monkeypatch.setattr(feed, "_MAX_OPEN_FILES", 1)
    whole = ClipReader(str(prepared), split="train").clip_ids()
    reader = ClipReader(str(prepared), split="train")
    order = [0, 7, 3, 1, 6, 4]
    assert reader.read(order).clip_ids == [whole[row] for row in order]
    assert len(reader._files) == 1


@pytest.mark.parametrize(("size_px", "kind"), [(None, "waveform"), (32, "log_mel")])
def test_a_reader_goes_to_another_process_without_its_files_and_knows_how_much_it_reads(
    prepared: Path, size_px: int | None, kind: str
) -> None:
    reader = ClipReader(str(prepared), split="train", image_size_px=size_px, input_kind=kind)
    batch = reader.read([1, 5])
    there = pickle.loads(pickle.dumps(reader))
    assert there.read([1, 5]).clip_ids == batch.clip_ids
    tensors = [value for value in asdict(batch).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == (6 if kind == "waveform" else 5)
    assert reader.clip_bytes == sum(tensor.nbytes for tensor in tensors) // 2
