"""What Ray shows of jobs: the names of their actors, their metrics, and the lines of workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class _Jobs:
    """What the jobs left: their folder, what Ray showed, lines of workers by message."""

    folder: Path
    shown: dict[str, Any]
    worker_lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Jobs]:
    """One Ray, with a dashboard, for a prepare and a train job; a video of them is broken."""
    folder, root = tmp_path_factory.mktemp("jobs"), tmp_path_factory.mktemp("s4")
    clips = SyntheticConfig(
        layout=Layout.S4, num_train=5, num_val=1, num_test=1, size_px=64, duration_s=5
    )
    write_synthetic(root, clips)
    sorted(root.rglob("train/**/*.mp4"))[0].write_bytes(b"#EXTM3U\nhttp://127.0.0.1:9/x.ts\n")
    ray_folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # socket paths: 107 characters
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / "telemetry_jobs.py"), str(folder), str(root), ray_folder],
            env=os.environ | {"PYTHONPATH": str(HERE.parent)},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        shown = json.loads(done.stdout.splitlines()[-1])
        errors = sorted(Path(shown["logs"]).glob("worker-*.err"))
        lines = [line for path in errors for line in path.read_text().splitlines()]
        yield _Jobs(folder, shown, [json.loads(x) for x in lines if x.startswith('{"time"')])
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)


def test_actors_are_called_after_what_they_do(jobs: _Jobs) -> None:
    names = jobs.shown["actors"]
    assert "MapWorker(Map(WriteShard))" in names
    assert {"RayTrainWorker", "TrainController"} <= set(names)
    assert not [name for name in names if "(_" in name]


def test_a_rejected_clip_is_in_its_workers_log_and_beside_the_results(jobs: _Jobs) -> None:
    [beside] = (jobs.folder / "prepared" / "logs").iterdir()
    lines = [json.loads(line) for line in beside.read_text().splitlines()]
    [rejected] = [line for line in lines if line["message"].startswith("rejected")]
    of_clip = [x for x in jobs.worker_lines if x["clip_id"] == rejected["clip_id"]]
    messages = [(x["stage"], x["message"]) for x in of_clip]
    assert messages == [("decode", "decode failed"), ("decode", rejected["message"])]
    assert {x["run"] for x in of_clip} == {rejected["run"]} == {lines[0]["run"]}
    assert {x["pid"] for x in of_clip} != {rejected["pid"]}


def test_every_decoded_clip_has_a_line_with_its_seconds(jobs: _Jobs) -> None:
    done = [x for x in jobs.worker_lines if x["message"] == "decode done"]
    assert len({x["clip_id"] for x in done}) == len(done) == 6
    assert all(x["seconds"] > 0 for x in done)


def test_prometheus_gets_stages_items_and_the_training(jobs: _Jobs) -> None:
    run = str(jobs.folder / "run")

    def total(name: str, *tags: str) -> float:
        found = [x for x in jobs.shown["metrics"] if x.startswith(name)]
        return sum(float(x.rsplit(" ", 1)[1]) for x in found if all(tag in x for tag in tags))

    items = ("ray_avs_job_items_total", 'job="prepare"')
    assert total(*items, 'status="ok"') == 6
    assert total(*items, 'status="rejected"') == 1
    stages = "ray_avs_job_stage_seconds_count"
    assert total(stages, 'job="prepare"', 'stage="decode"') == 7
    assert total(stages, 'job="train"', 'stage="validate"') == 1
    assert total("ray_avs_train_epoch", f'run="{run}"') == 1
    assert total("ray_avs_train_loss", f'run="{run}"') > 0


@pytest.mark.parametrize(("name", "key", "value"), [("prepared", "ok", 6), ("run", "epochs", 1)])
def test_a_job_leaves_a_summary(jobs: _Jobs, name: str, key: str, value: int) -> None:
    summary = json.loads((jobs.folder / name / "summary.json").read_text())
    assert summary["rows"][key] == value
