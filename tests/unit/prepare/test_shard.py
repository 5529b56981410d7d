"""One shard: the same bytes every time, rejects as rows, and whole or not there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_clips import clip_format, data_config, prepare

from avs import storage
from avs.datasets import DATASETS, DataConfig
from avs.errors import DataError, LeaseError
from avs.lease import LEASE_NAME, Lease
from avs.prepare import shard as shard_module
from avs.prepare.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from avs.prepare.plan import ShardPlan, plan_shards
from avs.prepare.shard import RECORDS, SHARDS, ShardRecord, read_record, write_shard
from avs.schema import check_schema


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
    original = shard_module.prepare_clip

    def fails_once(source: object, config: DataConfig) -> object:
        if source is plan.sources[0]:
            raise ZeroDivisionError("inside")
        return original(source, config)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_module, "prepare_clip", fails_once)
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
    assert read_record(lease.out, plan) is None
    record = _write(plan, config, lease)
    assert read_record(lease.out, plan) == record
    assert read_record(lease.out, replace(plan, hash="another")) is None
    storage.remove(storage.join(lease.out, SHARDS, plan.name))
    assert read_record(lease.out, plan) is None


def test_a_killed_writer_leaves_no_finished_shard(
    plan: ShardPlan, config: DataConfig, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_module.storage, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            _write(plan, config, lease)
    assert read_record(lease.out, plan) is None
    assert _files(lease.out) == [f"{SHARDS}/{plan.name}"]
    _write(plan, config, lease)
    assert read_record(lease.out, plan) is not None


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
    assert read_record(lease.out, rejected) == record


def test_a_manifest_is_read_as_it_was_written(config: DataConfig, tmp_path: Path) -> None:
    manifest = prepare(config, tmp_path / "out")
    assert read_manifest(str(tmp_path / "out")) == manifest
    assert [s.num_rows for s in manifest.split_shards("train")] == [2]
    with pytest.raises(DataError, match=r"split=tset has no clips.*Known: test, train, val"):
        manifest.split_shards("tset")


def _another_version(manifest: Manifest) -> Manifest:
    return replace(manifest, schema_version=99)


def test_a_folder_that_is_not_complete_or_not_ours_says_so(
    config: DataConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"out does not exist: run jobs/prepare\.py first"):
        read_manifest(str(out))
    manifest = prepare(config, out)
    write_manifest(str(out), _another_version(manifest))
    with pytest.raises(DataError, match=r"schema version 99, this code reads 1: run jobs/prepare"):
        read_manifest(str(out))
    (out / MANIFEST).write_text("[]")
    with pytest.raises(DataError, match="schema version None"):
        read_manifest(str(out))
    (out / MANIFEST).unlink()
    with pytest.raises(DataError, match=r"has no manifest\.json.*has not finished"):
        read_manifest(str(out))
