"""The benchmark of training as its job runs it: real trainings beside the bare scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(1500), pytest.mark.full]

JOB = Path(__file__).resolve().parents[2] / "jobs" / "benchmark.py"


def test_the_job_measures_scaling_and_start(tmp_path: Path) -> None:
    command = [sys.executable, str(JOB), "stage=train", "quick=true", f"out='{tmp_path}'"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "benchmark.json").read_text())
    scaling, start = result["repeats"]["scaling"], result["repeats"]["start"]
    assert set(scaling) == {"torchrun-1", "avs-1", "torchrun-2", "avs-2"}
    for (figures,) in scaling.values():
        assert figures["clips_per_s"] > 0.0
        assert 0.0 <= figures["stall"] < 1.0
    assert set(start) == {"trainer", "avs"}
    for (figures,) in start.values():
        names = ("driver_s", "begun_s", "first_step_s", "epoch_s", "total_s")
        times_s = [figures[name] for name in names]
        assert times_s == sorted(times_s)
        assert times_s[0] > 0.0
    assert (tmp_path / "benchmark.md").read_text() in done.stdout
    assert not list((tmp_path / "runs").iterdir())
