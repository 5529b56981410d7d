"""Real media: avsbench-mini in the official layout, and whole videos as users have them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_configs import TWO_WORKERS, train_config

from avs.datasets import DataConfig, MediaSource
from avs.inference.bucket.run import segment_bucket
from avs.inference.config import EvaluateConfig, SegmentConfig
from avs.inference.evaluation import evaluate
from avs.inference.outputs import OutputKind
from avs.prepare import Manifest, PrepareConfig
from avs.prepare.pipeline import prepare
from avs.training.config import PreparedConfig
from avs.training.distributed import train_distributed

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.timeout(1500),
    pytest.mark.usefixtures("ray_cluster"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def manifest(ray_cluster: None, real_data: Path, work: Path) -> Manifest:
    """Single-source as it lies there: raw videos, three kinds of mask pictures."""
    root = real_data / "avsbench-mini"
    data = DataConfig(name="s4", root=str(root), image_size_px=224, num_frames=5)
    config = PrepareConfig(data=data, scale=TWO_WORKERS, out=str(work / "s4"), shard_clips=32)
    prepared = prepare(config, say=print)
    assert prepared is not None
    return prepared


def test_single_source_is_prepared_whole(manifest: Manifest, real_data: Path, work: Path) -> None:
    with (real_data / "avsbench-mini/Single-source/s4_meta_data.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert manifest.counts["input"] == manifest.counts["ok"] == len(rows) == 274
    assert {k: v["rows"] for k, v in manifest.counts["by_split"].items()} == {
        "train": 171,
        "val": 43,
        "test": 60,
    }
    table = pq.read_table(work / "s4" / "shards" / "train-00000.parquet")
    valid = [list(v.as_py()) for v in table["mask_valid"]]
    assert valid == [[1, 0, 0, 0, 0]] * table.num_rows
    assert all(any(m.as_py()) for m in table["masks"])


def test_the_official_folders_give_the_same_clips(real_data: Path, work: Path) -> None:
    """visual_frames + audio_wav of the clips that have them, beside rejects for the others."""
    root = str(real_data / "avsbench-mini" / "Single-source")
    media = MediaSource.PREPROCESSED
    data = DataConfig(name="s4", root=root, image_size_px=224, num_frames=5, media=media)
    config = PrepareConfig(data=data, scale=TWO_WORKERS, out=str(work / "official"), shard_clips=64)
    found = prepare(config, say=print)
    assert found is not None
    assert found.counts["ok"] == 33
    assert found.counts["rejected"] == 274 - 33
    rejects = pq.read_table(work / "official" / "rejects.parquet").to_pylist()
    assert all("is missing" in r["message"] for r in rejects)


def test_it_trains_a_few_steps_and_is_evaluated(manifest: Manifest, work: Path) -> None:
    config = train_config(
        work / "s4",
        work / "run",
        epochs=1,
        batch_size=4,
        image_size_px=64,
        scale=TWO_WORKERS,
    )
    history = train_distributed(config, say=print)
    assert len(history) == 1
    assert 0 <= history[0]["val_j"] <= 1
    metrics = evaluate(
        EvaluateConfig(
            checkpoint=str(work / "run"),
            data=PreparedConfig(prepared=str(work / "s4")),
            split="test",
            out=str(work / "evaluation"),
            batch_size=1,
            num_pictures=4,
            scale=TWO_WORKERS,
        ),
        say=print,
    )
    assert metrics["num_clips"] == 60


def test_every_real_video_is_segmented_or_rejected_with_a_reason(
    tiny_checkpoint: Path, real_data: Path, work: Path
) -> None:
    """The broken files of the index are rejected; every file with a readable picture is not."""
    with (real_data / "clips" / "INDEX.csv").open() as file:
        expected = {row["file"]: row["expected"] for row in csv.DictReader(file)}
    segment_bucket(
        SegmentConfig(
            checkpoint=str(tiny_checkpoint),
            input=str(real_data / "clips"),
            out=str(work / "clips"),
            outputs=list(OutputKind),
            threshold=0.5,
            scale=TWO_WORKERS,
        ),
        say=print,
    )
    report = json.loads((work / "clips" / "report.json").read_text())
    assert {row["video"] for row in report} == set(expected)
    for row in report:
        readable = expected[row["video"]] in ("ok", "no_audio")
        assert row["status"] == ("ok" if readable else "rejected"), row
        assert readable or row["reason"]
        if readable:
            folder = work / "clips" / row["folder"]
            masks = json.loads((folder / "masks.json").read_text())["masks"]
            assert len(masks) == len(list((folder / "png").iterdir())) == row["num_masks"] >= 1
            assert (folder / "overlay.mp4").stat().st_size > 0
