"""The prepare job: exactly once, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from small_configs import TWO_WORKERS

from avs.datasets import DataConfig
from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic
from avs.errors import DataError
from avs.prepare import PrepareConfig, read_manifest
from avs.prepare.pipeline import prepare
from avs.prepare.run import run_prepare

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
    """Four workers at once, then one after another in this process."""
    first, other = tmp_path / "a", tmp_path / "b"
    prepare(_config(s4_root, first), say=lambda _: None)
    alone = run_prepare(_config(s4_root, other), map, num_cores=1, say=lambda _: None)
    before = {p.name: p.stat().st_mtime_ns for p in (first / "shards").iterdir()}

    lines: list[str] = []
    prepare(_config(s4_root, first), say=lines.append)

    assert {p.name: p.stat().st_mtime_ns for p in (first / "shards").iterdir()} == before
    assert any("5 of 5 shards are there already" in line for line in lines)
    told = ("manifest.json", "summary.json")  # of the run, as are the lines below logs/
    of_data = (p for p in first.rglob("*") if p.name not in told and "logs" not in p.parts)
    for path in (p for p in of_data if p.is_file()):
        assert path.read_bytes() == (other / path.relative_to(first)).read_bytes()
    manifest = read_manifest(str(first))
    assert replace(manifest, config=alone.config) == alone
    assert (manifest.revision, manifest.counts["ok"]) == (1, 15)


def test_a_dry_run_shows_the_plan_and_writes_nothing(s4_root: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    config = replace(_config(s4_root, tmp_path / "out"), dry_run=True)
    assert prepare(config, say=lines.append) is None
    assert not (tmp_path / "out").exists()
    assert any("in all: 15 clips" in line and "5 shards" in line for line in lines)
    assert "s on 4 cores and " in lines[-1]


def test_the_job_over_its_reject_budget_ends_with_code_3_and_a_manifest(
    s4_root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "in"
    subprocess.run(["cp", "-r", str(s4_root), str(copy)], check=True)
    sorted(copy.rglob("*.mp4"))[0].write_bytes(b"not a video")
    job = Path(__file__).resolve().parents[2] / "jobs" / "prepare.py"
    command = [
        sys.executable,
        str(job),
        f"data.root={copy}",
        f"out={tmp_path}/out",
        "data.image_size_px=32",
        "max_reject_ratio=0.05",
    ]
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "error: 1 of 15 clips were rejected (6.7%), max_reject_ratio=0.05" in done.stderr
    assert read_manifest(str(tmp_path / "out")).counts["ok"] == 14


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


@pytest.mark.full
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
    from avs.lease import Lease
    from avs.prepare.folder import claim_folder
    from avs.prepare.plan import make_plan
    from avs.prepare.shard import write_shard
    from avs.storage import temporary_name

    config = _config(Path(root), Path(out))
    plan = make_plan(config)
    with Lease(out, job="prepare") as lease:
        claim_folder(out, config.data)
        write_shard(plan.shards[0], config.data, plan.form, out=out, owner=lease.owner)
        temporary_name(Path(out) / "shards" / plan.shards[1].name).write_bytes(b"half a shard")
        print("first shard written", flush=True)
        signal.pause()


if __name__ == "__main__":
    _write_one_shard_and_wait(*sys.argv[1:])
