"""The bucket job and evaluation on a local cluster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_configs import TWO_WORKERS

from avs import Predictor
from avs.datasets import DataConfig
from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic
from avs.errors import CheckpointError, ConfigError, DataError, RejectBudgetError
from avs.inference.bucket import segment_bucket
from avs.inference.config import EvaluateConfig, SegmentConfig
from avs.inference.evaluation import evaluate
from avs.inference.outputs import OutputKind
from avs.prepare import PrepareConfig
from avs.prepare.pipeline import prepare
from avs.training.config import PreparedConfig

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

SYNTHETIC = SyntheticConfig(
    layout=Layout.MS3, num_train=4, num_val=2, num_test=4, size_px=64, duration_s=5
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_synthetic(folder, SYNTHETIC)
    return folder


@pytest.fixture(scope="module")
def prepared(root: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    data = DataConfig(name="ms3", root=str(root), image_size_px=64, num_frames=5)
    prepare(
        PrepareConfig(data=data, scale=TWO_WORKERS, out=str(out), shard_clips=4), say=lambda _: None
    )
    return out


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


def _config(
    checkpoint: Path, source: Path, out: Path, threshold: float = 0.5, masks_per_s: int | str = 1
) -> SegmentConfig:
    return SegmentConfig(
        checkpoint=str(checkpoint),
        input=str(source),
        out=str(out),
        outputs=list(OutputKind),
        threshold=threshold,
        masks_per_s=masks_per_s,
        scale=TWO_WORKERS,
    )


def test_each_video_has_one_folder_or_a_reason(
    tiny_checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = _config(tiny_checkpoint, videos, out)
    config.max_reject_ratio = 0.4
    with pytest.raises(RejectBudgetError, match="2 of 4 videos"):  # after everything is written
        segment_bucket(config, say=lambda _: None)
    config.max_reject_ratio = 0.5
    report = segment_bucket(config, say=lambda _: None)

    assert report == json.loads((out / "report.json").read_text())
    status = {row["video"]: row["status"] for row in report}
    assert status == {
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
        assert {"masks.npz", "matte.mov"} < {path.name for path in folder.iterdir()}


def test_a_rerun_does_only_what_is_missing_or_changed(
    tiny_checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = segment_bucket(_config(tiny_checkpoint, videos, out), say=lambda _: None)
    folders = [out / row["folder"] for row in first if row["status"] == "ok"]
    (folders[0] / "commit.json").unlink()  # as if killed before its commit
    (folders[0] / "png" / "000099.png").write_bytes(b"left over")
    (folders[1] / "overlay.mp4").unlink()  # as if somebody had tidied up
    kept = (folders[1] / "masks.json").stat().st_mtime_ns

    again = segment_bucket(_config(tiny_checkpoint, videos, out), say=lambda _: None)

    assert [r["status"] for r in again] == [r["status"] for r in first]
    assert not (folders[0] / "png" / "000099.png").exists()
    assert (folders[1] / "overlay.mp4").exists()
    assert (folders[1] / "masks.json").stat().st_mtime_ns != kept
    kept = (folders[1] / "masks.json").stat().st_mtime_ns
    segment_bucket(_config(tiny_checkpoint, videos, out), say=lambda _: None)
    assert (folders[1] / "masks.json").stat().st_mtime_ns == kept

    segment_bucket(_config(tiny_checkpoint, videos, out, threshold=0.9), say=lambda _: None)
    assert (folders[1] / "masks.json").stat().st_mtime_ns != kept
    more = _config(tiny_checkpoint, videos, out, threshold=0.9, masks_per_s=2)
    rows = segment_bucket(more, say=lambda _: None)
    assert [row["num_masks"] for row in rows if row["status"] == "ok"] == [10, 10]


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


def _evaluation(checkpoint: Path, prepared: Path, out: Path) -> EvaluateConfig:
    return EvaluateConfig(
        checkpoint=str(checkpoint),
        data=PreparedConfig(prepared=str(prepared)),
        split="test",
        out=str(out),
        batch_size=1,
        num_pictures=2,
        scale=TWO_WORKERS,
    )


def test_evaluation_scores_the_three_sounds(
    tiny_checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    metrics = evaluate(_evaluation(tiny_checkpoint, prepared, tmp_path), say=lambda _: None)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_clips"] == 4
    assert 0 < metrics["j_true"] < 1
    assert len({metrics["j_true"], metrics["j_silent"], metrics["j_swapped"]}) == 3
    html = (tmp_path / "report.html").read_text()
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("data:image/png;base64,") >= 2


def test_evaluation_does_not_write_over_a_checkpoint(tiny_checkpoint: Path, prepared: Path) -> None:
    with pytest.raises(ConfigError, match="is a checkpoint"):
        evaluate(_evaluation(tiny_checkpoint, prepared, tiny_checkpoint))


def test_evaluation_refuses_sound_that_is_aligned_otherwise(
    tiny_checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    exact = Path(shutil.copytree(tiny_checkpoint, tmp_path / "exact"))
    text = (exact / "config.yaml").read_text()
    changed = text.replace("audio_alignment: avsbench", "audio_alignment: exact")
    (exact / "config.yaml").write_text(changed)
    with pytest.raises(DataError, match=r"alignment=avsbench, but .* exact: prepare"):
        evaluate(_evaluation(exact, prepared, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
