"""From a bucket to a bucket: prepare and segment with nothing on this disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs

from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic
from avs.prepare.manifest import read_manifest

JOBS = Path(__file__).parents[2] / "jobs"
SYNTHETIC = SyntheticConfig(layout=Layout.MS3, num_train=2, num_val=1, num_test=1, size_px=64)


def _run(job: str, *overrides: str) -> str:
    """Run a job with the AWS_* environment of this process; returns what it printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(JOBS / job), *overrides],
        env=environment,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_prepare_and_segment_read_and_write_a_bucket(
    s3_folder: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    write_synthetic(tmp_path, SYNTHETIC)
    bucket = s3fs.S3FileSystem()
    bucket.put(str(tmp_path / "ms3_meta_data.csv"), f"{s3_folder}/in/ms3_meta_data.csv")
    bucket.put(str(tmp_path / "ms3_data"), f"{s3_folder}/in/ms3_data", recursive=True)

    prepared = f"{s3_folder}/prepared"
    arguments = ["data=ms3", f"data.root='{s3_folder}/in'", f"out='{prepared}'", "shard_clips=1"]
    _run("prepare.py", *arguments, "data.image_size_px=64")
    manifest = read_manifest(prepared)
    assert manifest.counts["ok"] == 4
    shards = sorted(bucket.glob(f"{prepared}/shards/*.parquet"))
    assert len(shards) == 4
    with bucket.open(shards[0]) as file:
        assert pq.read_table(file).num_rows == 1

    segment = [f"checkpoint='{tiny_checkpoint}'", f"input='{s3_folder}/in/ms3_data/raw_videos'"]
    segment += [f"out='{s3_folder}/masks'", "outputs=[rle_json,png]"]
    _run("segment.py", *segment)
    report = json.loads(bucket.cat(f"{s3_folder}/masks/report.json"))
    assert [row["status"] for row in report] == ["ok"] * 4
    for row in report:
        written = json.loads(bucket.cat(f"{s3_folder}/masks/{row['video']}/masks.json"))
        assert len(written["masks"]) == 5
    assert "4 of 4" in _run("segment.py", *segment)  # a rerun finds all of it there
