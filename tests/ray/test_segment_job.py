"""The bucket job on a local cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from small_configs import TWO_WORKERS

from avs import Predictor
from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic
from avs.errors import CheckpointError, DataError, RejectBudgetError
from avs.inference.bucket import run
from avs.inference.bucket.plan import Pools, plan_pools
from avs.inference.bucket.run import BucketCounts, segment_bucket
from avs.inference.config import SegmentConfig
from avs.inference.outputs import OutputKind

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

SYNTHETIC = SyntheticConfig(
    layout=Layout.MS3, num_train=2, num_val=0, num_test=0, size_px=64, duration_s=5
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_synthetic(folder, SYNTHETIC)
    return folder


@pytest.fixture
def videos(root: Path, tmp_path: Path) -> Path:
    """Two good videos with awkward names, a text file in disguise and a broken one."""
    folder = tmp_path / "in [1], a=b"
    (folder / "sub dir").mkdir(parents=True)
    good = sorted(root.rglob("*.mp4"))[:2]
    shutil.copy(good[0], folder / "-first 'é'.mp4")
    shutil.copy(good[1], folder / "sub dir" / "50%: x.mp4")
    (folder / "playlist.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:9/x.ts\n")
    (folder / "cut.mp4").write_bytes(good[0].read_bytes()[:300])
    return folder


def _config(checkpoint: Path, source: Path, out: Path, **changes: Any) -> SegmentConfig:
    values: dict[str, Any] = {"outputs": list(OutputKind), "threshold": 0.5, "scale": TWO_WORKERS}
    return SegmentConfig(
        checkpoint=str(checkpoint), input=str(source), out=str(out), **(values | changes)
    )


def _quiet(_: str) -> None:
    """Say nothing."""


def _rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "report.json").read_text())
    return found


def test_each_video_has_one_folder_or_a_reason(
    tiny_checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RejectBudgetError, match="2 of 4 videos"):  # after everything is written
        segment_bucket(_config(tiny_checkpoint, videos, out, max_failed_ratio=0.4), say=_quiet)
    said: list[str] = []
    config = _config(tiny_checkpoint, videos, out, max_failed_ratio=0.5)
    assert segment_bucket(config, say=said.append) == BucketCounts(2, 2, num_done=2)

    report = _rows(out)
    assert {row["video"]: row["status"] for row in report} == {
        "-first 'é'.mp4": "ok",
        "cut.mp4": "rejected",
        "playlist.mp4": "rejected",
        "sub dir/50%: x.mp4": "ok",
    }
    assert all(row["reason"] for row in report if row["status"] == "rejected")
    predictor = Predictor.from_checkpoint(str(tiny_checkpoint))
    for row in (r for r in report if r["status"] == "ok"):
        folder = out / row["folder"]
        expected = predictor.segment_video(str(videos / row["video"])).to_json()
        assert json.loads((folder / "masks.json").read_text()) == expected
        assert len(list((folder / "png").iterdir())) == row["num_masks"] == 5
        assert (folder / "overlay.mp4").stat().st_size > 1000
        assert set(row["outputs"]) == {kind.value for kind in OutputKind}
        assert all((out / key).exists() for key in row["outputs"].values())
    index = {row["video"]: row for row in pq.read_table(out / "index.parquet").to_pylist()}
    assert set(index) == {row["video"] for row in report}
    assert len(index["-first 'é'.mp4"]["mask_area"]) == 5
    assert "2 videos segmented, 2 rejected" in (out / "index.html").read_text()
    assert json.loads((out / "summary.json").read_text())["rows"]["rejected"] == 2
    [log, _] = sorted((out / "logs").iterdir())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["clip_id"] for line in lines if line["stage"] == "decode"} == {
        "cut.mp4",
        "playlist.mp4",
    }
    assert f"segment: 2 ok, 2 rejected -> {out}/report.json" in said


def test_a_rerun_does_only_what_is_missing_or_changed(
    tiny_checkpoint: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here with writers of their own."""
    monkeypatch.setattr(run, "plan_pools", _with_writers)
    out = tmp_path / "out"
    few = [OutputKind.RLE_JSON, OutputKind.PNG, OutputKind.THUMBNAILS]
    config = _config(tiny_checkpoint, videos, out, outputs=few)
    segment_bucket(config, say=_quiet)
    first = _rows(out)
    folders = [out / row["folder"] for row in first if row["status"] == "ok"]
    (folders[0] / "commit.json").unlink()  # as if killed before its commit
    (folders[0] / "png" / "000099.png").write_bytes(b"left over")
    (folders[1] / "thumbnails.jpg").unlink()  # as if somebody had tidied up
    kept = (folders[1] / "masks.json").stat().st_mtime_ns

    assert segment_bucket(config, say=_quiet) == BucketCounts(2, 2, num_done=0)

    assert [r["status"] for r in _rows(out)] == [r["status"] for r in first]
    assert not (folders[0] / "png" / "000099.png").exists()
    assert (folders[1] / "thumbnails.jpg").exists()
    assert (folders[1] / "masks.json").stat().st_mtime_ns != kept
    kept = (folders[1] / "masks.json").stat().st_mtime_ns
    assert segment_bucket(config, say=_quiet).num_done == 2
    assert (folders[1] / "masks.json").stat().st_mtime_ns == kept

    more = _config(tiny_checkpoint, videos, out, outputs=few, threshold=0.9, masks_per_s=2)
    segment_bucket(more, say=_quiet)
    assert (folders[1] / "masks.json").stat().st_mtime_ns != kept
    assert [row["num_masks"] for row in _rows(out) if row["status"] == "ok"] == [10, 10]


@pytest.mark.full
@pytest.mark.parametrize("stages", [{"Decode", "SegmentAndWrite"}, {"Decode", "Segment", "Write"}])
def test_killed_workers_neither_lose_nor_double_a_video(
    stages: set[str],
    tiny_checkpoint: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each stage the first worker that is seen is killed while the job runs."""
    if "Write" in stages:
        monkeypatch.setattr(run, "plan_pools", _with_writers)
    source = tmp_path / "in"
    source.mkdir()
    good = sorted(root.rglob("*.mp4"))
    for k in range(24):
        shutil.copy(good[k % 2], source / f"{k:02d}.mp4")
    killed: set[str] = set()

    def strike(line: str) -> None:
        if " videos" not in line or "/" not in line:  # the job is at work
            return
        for name in stages - killed:
            for process in psutil.Process().children(recursive=True):
                if _runs(process, name):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.add(name)
                    break

    config = _config(tiny_checkpoint, source, tmp_path / "out", masks_per_s=40)  # in two parts
    config.outputs = [OutputKind.RLE_JSON]
    assert segment_bucket(config, say=strike) == BucketCounts(24, 0, num_done=0)
    assert len(killed) >= 2  # a writer may come and go unseen

    predictor = Predictor.from_checkpoint(str(tiny_checkpoint))
    expected = [predictor.segment_video(str(path), masks_per_s=40).to_json() for path in good]
    rows = _rows(tmp_path / "out")
    assert [row["video"] for row in rows] == [f"{k:02d}.mp4" for k in range(24)]
    for k, row in enumerate(rows):
        folder = tmp_path / "out" / row["folder"]
        assert sorted(path.name for path in folder.iterdir()) == ["commit.json", "masks.json"]
        assert json.loads((folder / "masks.json").read_text()) == expected[k % 2]
    assert not (tmp_path / "out" / "_parts").exists() or not any(
        path.is_file() for path in (tmp_path / "out" / "_parts").rglob("*")
    )


def _with_writers(*args: Any, **options: Any) -> Pools:
    """As beside GPUs."""
    pools = plan_pools(*args, **options)
    return replace(pools, segmenter_cpus=0.5, num_writers=2, writer_cpus=0.1)


def _runs(process: psutil.Process, stage: str) -> bool:
    try:
        return f"MapBatches({stage})" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return False


@ray.remote
class _Holder:
    def hold(self) -> None:
        """What its options ask for."""


def test_it_runs_in_what_a_service_leaves_of_a_cpu(
    tiny_checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    holder = _Holder.options(num_cpus=ray.available_resources()["CPU"] - 0.5).remote()
    ray.get(holder.hold.remote())
    try:
        scale = replace(TWO_WORKERS, num_workers=1, cpus_per_worker=0.5)
        config = _config(tiny_checkpoint, videos, tmp_path / "out", scale=scale)
        config.outputs = [OutputKind.RLE_JSON]
        assert segment_bucket(config, say=_quiet) == BucketCounts(2, 2, num_done=0)
    finally:
        ray.kill(holder)


class _EnoughError(Exception):
    pass


def test_watching_takes_what_is_added(tiny_checkpoint: Path, root: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    first, second = sorted(root.rglob("*.mp4"))
    shutil.copy(first, source / "a.mp4")

    def told(line: str) -> None:
        if "1 ok, 0 rejected" in line:
            shutil.copy(second, source / "b.mp4")
        if "2 ok, 0 rejected" in line:
            raise _EnoughError

    config = _config(tiny_checkpoint, source, out, watch=True, watch_every_s=0.2)
    config.outputs = [OutputKind.RLE_JSON]
    with pytest.raises(_EnoughError):
        segment_bucket(config, say=told)
    assert [row["video"] for row in _rows(out)] == ["a.mp4", "b.mp4"]
    assert not (out / "_lease.json").exists()


def test_missing_input_or_checkpoint_is_one_clear_error(
    tiny_checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        segment_bucket(_config(tmp_path / "none", tmp_path, tmp_path / "out"))
    with pytest.raises(DataError, match="no video"):
        segment_bucket(_config(tiny_checkpoint, tiny_checkpoint, tmp_path / "out"))
    later = tmp_path / "later"
    shutil.copytree(tiny_checkpoint, later)
    text = (later / "config.yaml").read_text()
    (later / "config.yaml").write_text(text.replace("version: 1", "version: 99"))
    with pytest.raises(CheckpointError, match="checkpoint_version 99"):
        segment_bucket(_config(later, videos, tmp_path / "out"))
    with pytest.raises(DataError, match="no video but those below out="):
        segment_bucket(_config(tiny_checkpoint, videos, videos))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_only_the_workers_find_broken_is_one_clear_error(
    tiny_checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))
    text = (broken / "config.yaml").read_text()
    (broken / "config.yaml").write_text(text.replace("fusion_width: 32", "fusion_width: 16"))
    with pytest.raises(CheckpointError, match=r"does not fit its model: [^\n]*$"):
        segment_bucket(_config(broken, videos, tmp_path / "out"), say=_quiet)
