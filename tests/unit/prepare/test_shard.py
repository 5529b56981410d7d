"""One shard: the same bytes every time, rejects as rows, and whole or not there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from made_clips import clip_format, data_config

from avs import storage
from avs.datasets import DATASETS, ClipSource, DataConfig
from avs.errors import LeaseError
from avs.lease import LEASE_NAME, Lease
from avs.prepare import shard as shard_module
from avs.prepare.plan import ShardPlan, plan_shards
from avs.prepare.records import RECORDS, SHARDS, ShardRecord, read_records, shard_uri
from avs.prepare.shard import write_shard
from avs.schema import Clip, check_schema


@pytest.fixture
def config(s4_root: Path) -> DataConfig:
    return data_config("s4", s4_root)


@pytest.fixture
def plan(config: DataConfig) -> ShardPlan:
    """The two train clips, and one between them that cannot be decoded."""
    sources = [s for s in DATASETS["s4"].list_clips(config) if s.split == "train"]
    bad = replace(sources[0], clip_id="s4/Single-source/bad", video=sources[0].masks[0])
    missing = replace(sources[0], clip_id="s4/Single-source/missing", problem="not there")
    (plan,) = plan_shards([sources[0], bad, missing, sources[1]], config, shard_clips=9)
    return plan


@pytest.fixture
def lease(place: str) -> Iterator[Lease]:
    with Lease(place, job="test") as lease:
        yield lease


def _write(plan: ShardPlan, config: DataConfig, lease: Lease) -> ShardRecord:
    return write_shard(plan, config, clip_format(config), out=lease.out, owner=lease.owner)


def _finished(plan: ShardPlan, lease: Lease) -> ShardRecord | None:
    return read_records(lease.out, [plan]).get(plan.name)


def _files(out: str) -> list[str]:
    return [f.path for f in storage.list_files(out) if f.path != LEASE_NAME]


def test_a_shard_holds_its_clips_in_order_and_its_record_the_rest(
    plan: ShardPlan, config: DataConfig, lease: Lease
) -> None:
    record = _write(plan, config, lease)
    assert _files(lease.out) == [f"{RECORDS}/{plan.name}.json", f"{SHARDS}/{plan.name}"]
    data = storage.read_bytes(storage.join(lease.out, SHARDS, plan.name))
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert record.size_bytes == len(data)
    assert (record.num_clips, record.num_rows, len(record.rejects)) == (2, 2, 2)
    with storage.local_copy(storage.join(lease.out, SHARDS, plan.name)) as path:
        table = pq.read_table(path)
    check_schema(table.schema, plan.name)
    good = [s.clip_id for s in plan.sources if s.clip_id.rpartition("/")[2].startswith("syn")]
    assert table["clip_id"].to_pylist() == good


def test_a_shard_tells_how_long_its_decoder_worked(
    plan: ShardPlan, config: DataConfig, lease: Lease
) -> None:
    timing = _write(plan, config, lease).timing
    assert timing is not None
    assert timing.num_sources == 4
    assert 0 < timing.decode_s < timing.clips_s


def test_a_clip_that_fails_is_a_reject_with_its_reason(
    plan: ShardPlan, config: DataConfig, lease: Lease
) -> None:
    bad, missing = _write(plan, config, lease).rejects
    assert (bad.clip_id, bad.stage, bad.error_type) == (
        "s4/Single-source/bad",
        "decode",
        "MediaError",
    )
    assert bad.uri == plan.sources[1].source.uri
    assert bad.message
    assert (missing.stage, missing.message, missing.split) == ("list", "not there", "train")


def test_a_bug_of_a_decoder_costs_one_clip(
    plan: ShardPlan, config: DataConfig, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = shard_module.prepare_rows

    def fails_once(source: ClipSource, *others: Any) -> Iterator[Clip]:
        if source is plan.sources[0]:
            raise ZeroDivisionError("inside")
        yield from original(source, *others)

    monkeypatch.setattr(shard_module, "prepare_rows", fails_once)
    record = _write(plan, config, lease)
    assert record.num_clips == 1
    assert record.rejects[0].error_type == "ZeroDivisionError"
    assert "inside" in record.rejects[0].message


def test_two_runs_write_the_same_bytes(plan: ShardPlan, config: DataConfig, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        with Lease(str(tmp_path / name), job="test") as lease:
            _write(plan, config, lease)
        files = [tmp_path / name / f for f in _files(str(tmp_path / name))]
        contents.append([f.read_bytes() for f in files])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2


def test_a_finished_shard_is_known_by_its_record(
    plan: ShardPlan, config: DataConfig, lease: Lease
) -> None:
    assert _finished(plan, lease) is None
    record = _write(plan, config, lease)
    assert _finished(plan, lease) == record
    assert _finished(replace(plan, hash="another"), lease) is None
    storage.remove(storage.join(lease.out, SHARDS, plan.name))
    assert _finished(plan, lease) is None


def test_a_killed_writer_leaves_no_finished_shard(
    plan: ShardPlan, config: DataConfig, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_module, "write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            _write(plan, config, lease)
    assert _finished(plan, lease) is None
    assert _files(lease.out) == [f"{SHARDS}/{plan.name}"]
    _write(plan, config, lease)
    assert _finished(plan, lease) is not None


def test_a_writer_that_dies_while_writing_leaves_nothing(
    plan: ShardPlan, config: DataConfig, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_clips: object, path: str, _form: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(shard_module, "write_clips", full)
    with pytest.raises(OSError, match="no space"):
        _write(plan, config, lease)
    assert _files(lease.out) == []
    if storage.is_local(lease.out):
        assert list((Path(lease.out) / SHARDS).iterdir()) == []


def test_a_run_that_lost_its_lease_commits_nothing(
    plan: ShardPlan, config: DataConfig, lease: Lease
) -> None:
    with pytest.raises(LeaseError, match="nothing was committed"):
        write_shard(plan, config, clip_format(config), out=lease.out, owner="another")
    assert _files(lease.out) == []


def test_a_shard_without_a_clip_has_a_record_and_no_file(
    plan: ShardPlan, config: DataConfig, lease: Lease
) -> None:
    _write(plan, config, lease)
    rejected = replace(plan, sources=plan.sources[1:3], hash="changed")
    record = _write(rejected, config, lease)
    assert (record.num_clips, record.num_rows, len(record.rejects)) == (0, 0, 2)
    assert _files(lease.out) == [f"{RECORDS}/{plan.name}.json"]
    assert _finished(rejected, lease) == record


def test_a_file_that_went_away_is_told_from_one_that_cannot_be_decoded(
    plan: ShardPlan, config: DataConfig, lease: Lease, tmp_path: Path
) -> None:
    gone = replace(plan.sources[0], video=str(tmp_path / "gone.mp4"))
    record = _write(replace(plan, sources=(gone,)), config, lease)
    assert [(r.stage, r.error_type) for r in record.rejects] == [("read", "DataError")]


def test_what_was_odd_about_a_clip_is_in_the_record(
    plan: ShardPlan, config: DataConfig, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = shard_module.prepare_rows

    def odd(source: ClipSource, data: DataConfig, warnings: list[str]) -> Iterator[Clip]:
        warnings.append("odd")
        yield from original(source, data, [])

    monkeypatch.setattr(shard_module, "prepare_rows", odd)
    record = _write(plan, config, lease)
    assert record.warnings == {plan.sources[0].clip_id: ["odd"], plan.sources[3].clip_id: ["odd"]}
    assert _finished(plan, lease) == record


@pytest.mark.parametrize("rows_in_memory", [0, 1, 64])
def test_a_retry_decodes_only_what_failed_and_ends_as_if_nothing_had(
    rows_in_memory: int,
    plan: ShardPlan,
    config: DataConfig,
    lease: Lease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A source with several rows, too: the rows of a whole video are found by its id."""
    decoded = []
    failing = {plan.sources[0].clip_id}
    original = shard_module.prepare_rows

    def two_rows(source: ClipSource, data: DataConfig, warnings: list[str]) -> Iterator[Clip]:
        decoded.append(source.clip_id)
        (clip,) = original(source, data, [])
        yield replace(clip, clip_id=f"{clip.clip_id}@0")
        if source.clip_id in failing:  # after its first row
            raise OSError("for a moment")
        yield replace(clip, clip_id=f"{clip.clip_id}@5000")
        warnings.append("odd")

    monkeypatch.setattr(shard_module, "prepare_rows", two_rows)
    monkeypatch.setattr(shard_module, "_ROWS_IN_MEMORY", rows_in_memory)
    form, out, owner = clip_format(config), lease.out, lease.owner
    first = write_shard(plan, config, form, out=out, owner=owner)
    before = storage.read_bytes(shard_uri(out, plan.name))
    assert write_shard(plan, config, form, out=out, owner=owner, previous=first) is first
    assert storage.read_bytes(shard_uri(out, plan.name)) == before
    failing.clear()
    decoded.clear()
    retried = write_shard(plan, config, form, out=out, owner=owner, previous=first)
    assert decoded == [r.clip_id for r in first.rejects]
    mended = storage.read_bytes(shard_uri(out, plan.name))
    assert (retried.num_clips, retried.num_rows, len(retried.rejects)) == (2, 4, 2)
    assert retried.timing is not None
    assert retried.timing.num_sources == 3
    assert write_shard(plan, config, form, out=out, owner=owner) == retried
    assert storage.read_bytes(shard_uri(out, plan.name)) == mended
