"""From a bucket to a bucket with nothing on this disk, and a bucket that is away for a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import s3fs
from flaky_s3 import flaky_s3
from killing import kill_all, wait_until

from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic
from avs.prepare.manifest import read_manifest

JOBS = Path(__file__).parents[2] / "jobs"
AWAY_S = 60.0
SYNTHETIC = SyntheticConfig(layout=Layout.MS3, num_train=2, num_val=1, num_test=1, size_px=64)


def _environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | more


def _run(job: str, *overrides: str) -> str:
    """Run a job with the AWS_* environment of this process; returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(JOBS / job), *overrides],
        env=_environment(),
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


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_bucket_that_is_away_for_a_minute_costs_a_training_time_and_nothing_else(
    s3_address: str, s3_folder: str, tmp_path: Path
) -> None:
    made = "num_train: 12, num_val: 2, num_test: 1, size_px: 64"
    prepared = f"{tmp_path}/prepared"
    _run(
        "prepare.py",
        "data=synthetic",
        f"data.root='{tmp_path}/data'",
        f"data.synthetic={{{made}}}",
        "data.image_size_px=64",
        f"out='{prepared}'",
    )
    training = ["model=tiny", f"data.prepared='{prepared}'", "train.epochs=3", "train.batch_size=1"]
    training += ["checkpoint.every_steps=1", "logging.report=false"]
    _run("train.py", *training, f"out='{tmp_path}/calm'")

    bucket, away = s3fs.S3FileSystem(), f"{s3_folder}/away"

    def pointer() -> str:
        last = f"{away}/last.json"
        bucket.invalidate_cache()
        return str(json.loads(bucket.cat(last))["checkpoint"]) if bucket.exists(last) else ""

    with flaky_s3(s3_address) as proxy:
        env = _environment(AWS_ENDPOINT_URL=proxy.address, AVS_TEST_RUN=away)
        command = [sys.executable, str(JOBS / "train.py"), *training, f"out='{away}'"]
        with subprocess.Popen(command, env=env) as job:
            try:
                wait_until(lambda: "step" in pointer(), job)
                before, proxy.is_away = len(proxy.requests), True
                end_s = time.monotonic() + AWAY_S
                wait_until(lambda: time.monotonic() >= end_s, job)
                refused = len(proxy.requests) - before
                proxy.is_away = False
                assert job.wait(timeout=300) == 0
            finally:
                kill_all(f"AVS_TEST_RUN={away}")
    assert refused > 0
    written = bucket.cat(f"{away}/metrics.jsonl").decode()
    assert _losses(written) == _losses((tmp_path / "calm" / "metrics.jsonl").read_text())


def _losses(lines: str) -> list[Any]:
    return [json.loads(line)["loss"] for line in lines.splitlines()]
