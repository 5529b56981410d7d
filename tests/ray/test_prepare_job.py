"""The prepare job: exactly once, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_configs import TWO_WORKERS

from avs.datasets import DataConfig
from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic
from avs.errors import DataError
from avs.prepare import PrepareConfig, read_manifest
from avs.prepare.pipeline import prepare

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def s4_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("s4 data=[1],é")
    config = SyntheticConfig(
        layout=Layout.S4, num_train=9, num_val=3, num_test=3, size_px=64, duration_s=5
    )
    write_synthetic(root, config)
    return root


def _config(root: Path, out: Path, **data: object) -> PrepareConfig:
    return PrepareConfig(
        data=DataConfig(name="s4", root=str(root), image_size_px=32, num_frames=5, **data),  # type: ignore[arg-type]
        scale=TWO_WORKERS,
        out=str(out),
        shard_clips=4,
    )


def test_every_clip_is_in_one_shard_or_in_the_rejects(s4_root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "in"
    subprocess.run(["cp", "-r", str(s4_root), str(copy)], check=True)
    videos = sorted(copy.rglob("*.mp4"))
    videos[0].write_bytes(b"#EXTM3U\nhttp://127.0.0.1:9/x.ts\n")
    videos[1].write_bytes(videos[1].read_bytes()[:400])
    videos[2].unlink()

    manifest = prepare(_config(copy, tmp_path / "out"), say=lambda _: None)

    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    shards = sorted((tmp_path / "out" / "shards").iterdir())
    ids = [i for s in shards for i in pq.read_table(s)["clip_id"].to_pylist()]
    assert manifest.counts["ok"] == 12
    assert manifest.counts["rejected"] == len(rejects) == 3
    assert len(ids) == len(set(ids)) == 12
    assert {r["stage"] for r in rejects} == {"decode", "list"}
    assert all(r["message"] for r in rejects)


def test_a_second_run_decodes_nothing_and_bytes_do_not_depend_on_scheduling(
    s4_root: Path, tmp_path: Path
) -> None:
    first, other = tmp_path / "a", tmp_path / "b"
    prepare(_config(s4_root, first), say=lambda _: None)
    prepare(_config(s4_root, other), say=lambda _: None)
    before = {p.name: p.stat().st_mtime_ns for p in (first / "shards").iterdir()}

    lines: list[str] = []
    prepare(_config(s4_root, first), say=lines.append)

    assert {p.name: p.stat().st_mtime_ns for p in (first / "shards").iterdir()} == before
    assert any("5 of 5 shards are there already" in line for line in lines)
    for shard in (first / "shards").iterdir():
        assert shard.read_bytes() == (other / "shards" / shard.name).read_bytes()


def test_a_changed_video_is_done_again_and_only_its_shard(s4_root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "in"
    subprocess.run(["cp", "-r", str(s4_root), str(copy)], check=True)
    prepare(_config(copy, tmp_path / "out"), say=lambda _: None)
    shards = tmp_path / "out" / "shards"
    before = {p.name: p.stat().st_mtime_ns for p in shards.iterdir()}

    next(iter((copy / "s4_data" / "raw_videos" / "val").rglob("*.mp4"))).touch()
    prepare(_config(copy, tmp_path / "out"), say=lambda _: None)

    after = {p.name: p.stat().st_mtime_ns for p in shards.iterdir()}
    assert {n for n in before if before[n] != after[n]} == {"val-00000.parquet"}


def test_another_configuration_in_the_same_folder_is_refused(s4_root: Path, tmp_path: Path) -> None:
    prepare(_config(s4_root, tmp_path), say=lambda _: None)
    with pytest.raises(DataError, match=r"with_waveform"):
        prepare(_config(s4_root, tmp_path, with_waveform=False), say=lambda _: None)


def test_killed_and_started_again_it_equals_the_uninterrupted_run(
    s4_root: Path, tmp_path: Path
) -> None:
    """SIGKILL of the driver after the first shard; the rerun keeps that shard as it is."""
    reference, out = tmp_path / "reference", tmp_path / "out"
    prepare(_config(s4_root, reference), say=lambda _: None)
    command = [sys.executable, "-u", __file__, str(s4_root), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "first shard written\n"
        job.send_signal(signal.SIGKILL)
    assert not (out / "manifest.json").exists()
    with pytest.raises(DataError, match="no manifest"):
        read_manifest(str(out))
    written = {p.name: p.stat().st_mtime_ns for p in (out / "shards").glob("*.parquet")}
    assert written

    lines: list[str] = []
    prepare(_config(s4_root, out), say=lines.append)

    assert any("is dead; going on in its place" in line for line in lines)
    for name, stamp in written.items():
        assert (out / "shards" / name).stat().st_mtime_ns == stamp
    assert read_manifest(str(out)).shards == read_manifest(str(reference)).shards
    assert not list(out.rglob("*.tmp"))


def _write_one_shard_and_wait(root: str, out: str) -> None:
    """The child of the kill test: a driver that dies between two shards, holding the lease."""
    from avs.config import dump
    from avs.datasets import dataset_spec
    from avs.lease import Lease
    from avs.prepare.pipeline import PLAN
    from avs.prepare.plan import config_hash, plan_shards
    from avs.prepare.shard import write_shard
    from avs.schema import ClipFormat
    from avs.storage import temporary_name

    config = _config(Path(root), Path(out))
    plans = plan_shards(dataset_spec("s4").list_clips(config.data), config.data, shard_clips=4)
    form = ClipFormat(
        num_frames=5, height_px=32, width_px=32, class_names=("background", "sounding")
    )
    with Lease(out, job="prepare") as lease:
        mine = {"config_hash": config_hash(config.data), "config": dump(config.data)}
        (Path(out) / PLAN).write_text(json.dumps(mine))
        write_shard(plans[0], config.data, form, out=out, owner=lease.owner)
        temporary_name(Path(out) / "shards" / plans[1].name).write_bytes(b"half a shard")
        print("first shard written", flush=True)
        signal.pause()


if __name__ == "__main__":
    _write_one_shard_and_wait(*sys.argv[1:])
