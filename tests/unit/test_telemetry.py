"""Log lines, metrics and the summary of a job, without Ray."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avs import storage
from avs.errors import ConfigError
from avs.telemetry import (
    count_items,
    current_run,
    job_run,
    log_line,
    meters,
    observe_seconds,
    reject,
    show_training,
    stage,
    write_summary,
)

KEYS = {"time", "level", "run", "job", "stage", "clip_id", "message", "node", "pid"}


def _lines(uri: str | None) -> list[dict[str, Any]]:
    assert uri is not None
    return [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]


@pytest.fixture(autouse=True)
def _level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVS_LOG_LEVEL", raising=False)


def test_a_clip_can_be_followed_through_the_file_beside_the_results(tmp_path: Path) -> None:
    with job_run("prepare", out=str(tmp_path)) as run:
        reject("s4/v/a é", job="prepare", stage="decode", reason="MediaError: no\nframes")
        logging.getLogger("avs.media.video").warning("clip %s is odd", "b")
    lines = _lines(run.log_uri)
    assert Path(str(run.log_uri)) == tmp_path / "logs" / f"prepare-{run.id}.jsonl"
    assert {line["run"] for line in lines} == {run.id}
    [found] = [line for line in lines if line["clip_id"] == "s4/v/a é"]
    assert found.keys() == KEYS
    assert (found["level"], found["job"], found["stage"]) == ("WARNING", "prepare", "decode")
    assert found["message"] == "rejected: MediaError: no\nframes"
    assert [line["message"] for line in lines][-2:] == ["clip b is odd", "prepare has ended"]


def test_lines_are_there_while_the_job_runs(tmp_path: Path) -> None:
    with job_run("prepare", out=str(tmp_path)) as run:
        assert [line["message"] for line in _lines(run.log_uri)] == ["prepare begins"]


def test_a_failure_is_the_last_line_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), job_run("train", out=str(tmp_path)) as run:
        raise OSError("disk is full")
    last = _lines(run.log_uri)[-1]
    assert (last["level"], last["message"]) == ("ERROR", "train failed: OSError: disk is full")


def test_a_start_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no"), job_run("prepare", out=str(out)):
        raise ValueError("no")
    assert not out.exists()


def test_an_inner_run_keeps_its_lines_to_itself(tmp_path: Path) -> None:
    with job_run("outer", out=str(tmp_path)) as outer:
        with job_run("inner", out=str(tmp_path)) as inner:
            log_line("inside")
            assert current_run() == inner
        log_line("outside")
        assert current_run() == outer
    assert current_run() is None
    assert [line["message"] for line in _lines(inner.log_uri)][1] == "inside"
    assert [line["message"] for line in _lines(outer.log_uri)][1] == "outside"
    log_line("after both")
    assert len(_lines(outer.log_uri)) == 3


def test_stages_are_lines_where_debug_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVS_LOG_LEVEL", "debug")
    with job_run("prepare", out=str(tmp_path)) as run:
        with stage("prepare", "decode", clip_id="a"):
            pass
        with pytest.raises(KeyError), stage("prepare", "decode", clip_id="b"):
            raise KeyError
    found = {x["clip_id"]: x for x in _lines(run.log_uri) if x["level"] == "DEBUG"}
    assert (found["a"]["message"], found["b"]["message"]) == ("decode done", "decode failed")
    assert 0 <= found["a"]["seconds"] < 1

    monkeypatch.setenv("AVS_LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match="AVS_LOG_LEVEL=LOUD"), job_run("prepare"):
        pass


def test_an_s3_log_is_put_at_the_end(s3_folder: str) -> None:
    storage.write_bytes(storage.join(s3_folder, "shard"), b"x")
    with job_run("prepare", out=s3_folder) as run:
        log_line("one")
        assert not storage.exists(str(run.log_uri))
    assert [line["message"] for line in _lines(run.log_uri)][1] == "one"


def test_storage_that_fails_costs_lines_and_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("away")

    with job_run("prepare", out=str(tmp_path)) as run:
        monkeypatch.setattr(storage, "exists", fail)
        log_line("while it was away")
        monkeypatch.undo()
        log_line("later")
    assert [x["message"] for x in _lines(run.log_uri)][1:3] == ["while it was away", "later"]


def test_a_worker_writes_json_to_its_standard_error() -> None:
    code = (
        "from avs.telemetry import *\n"
        "run = JobRun(job='prepare', id='r1')\n"
        "use_run(run); use_run(run)\n"
        "reject('a', job='prepare', stage='read', reason='gone')\n"
        "import logging, sys; logging.getLogger('avs.x').info('own')\n"
        "assert 'ray' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert (first["run"], first["clip_id"], first["stage"]) == ("r1", "a", "read")
    assert second["message"] == "own"
    assert done.stdout == ""


def test_the_summary_is_a_table_and_a_file(tmp_path: Path) -> None:
    told: list[str] = []
    rows = [("clips", 12), ("J", 0.123456), ("F", None), ("best", "0003")]
    with job_run("evaluate", out=str(tmp_path)) as run:
        write_summary(str(tmp_path), run=run, seconds=61.04, rows=rows, say=told.append)
    assert told == [
        f"== evaluate {run.id}",
        "clips    12",
        "J        0.1235",
        "F        -",
        "best     0003",
        "time     61 s",
        f"summary  {tmp_path}/summary.json",
        f"log      {run.log_uri}",
    ]
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "job": "evaluate",
        "run": run.id,
        "seconds": 61.0,
        "rows": {"clips": 12, "J": 0.123456, "F": None, "best": "0003"},
    }


class _Recorder:
    """Stands for ray.util.metrics: what was recorded, by metric."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.seen: list[tuple[str, float, dict[str, str]]] = []

    def metric(self, name: str, *_: object, **__: object) -> SimpleNamespace:
        self.made.append(name)

        def record(value: float, tags: dict[str, str]) -> None:
            self.seen.append((name, value, tags))

        return SimpleNamespace(observe=record, inc=record, set=record)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Recorder]:
    """Ray that runs, as far as metrics can tell."""
    found = _Recorder()
    metrics = SimpleNamespace(
        Histogram=found.metric, Counter=found.metric, Gauge=found.metric, __name__="metrics"
    )
    ray = SimpleNamespace(is_initialized=lambda: True, util=SimpleNamespace(metrics=metrics))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.util", ray.util)
    monkeypatch.setitem(sys.modules, "ray.util.metrics", metrics)
    meters._made.cache_clear()
    yield found
    meters._made.cache_clear()


def test_metrics_have_their_names_and_tags_and_are_made_once(recorder: _Recorder) -> None:
    with stage("prepare", "decode"):
        pass
    observe_seconds(0.5, job="train", stage="step")
    count_items(2, job="prepare", status="ok")
    count_items(0, job="prepare", status="ok")
    reject("a", job="prepare", stage="read", reason="x")
    reject("a", job="prepare", stage="read", reason="x", counts=False)
    show_training(run="out", epoch=3, loss=0.5, stall_share=0.1)
    names = [name for name, _, _ in recorder.seen]
    assert names == ["avs_job_stage_seconds"] * 2 + ["avs_job_items"] * 2 + [
        "avs_train_epoch",
        "avs_train_loss",
        "avs_train_stall_share",
    ]
    assert recorder.made == list(dict.fromkeys(names))
    assert recorder.seen[1] == ("avs_job_stage_seconds", 0.5, {"job": "train", "stage": "step"})
    assert recorder.seen[3] == ("avs_job_items", 1, {"job": "prepare", "status": "rejected"})
    assert recorder.seen[4] == ("avs_train_epoch", 3.0, {"run": "out"})


def test_without_ray_nothing_is_measured_and_nothing_imported() -> None:
    code = (
        "import sys\n"
        "from avs.telemetry import *\n"
        "with stage('a', 'b'): pass\n"
        "count_items(1, job='a', status='ok'); show_training(run='r', epoch=1, loss=0.0)\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
