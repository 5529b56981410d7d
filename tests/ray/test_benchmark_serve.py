"""The benchmark of serving as its job runs it: the real service beside the other contenders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(1500), pytest.mark.full]

JOB = Path(__file__).resolve().parents[2] / "jobs" / "benchmark.py"


def test_the_job_measures_one_client_and_many(tmp_path: Path) -> None:
    command = [sys.executable, str(JOB), "stage=serve", "quick=true", f"out='{tmp_path}'"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tiny = json.loads((tmp_path / "benchmark.json").read_text())["models"]["tiny"]
    assert set(tiny["one"]) == {"avs", "plain", "bare", "empty"}
    for (figures,) in tiny["one"].values():
        assert figures["failed"] == 0.0
        assert 0.0 < figures["p50_ms"] <= figures["p99_ms"]
    assert set(tiny["many"]) == {"avs", "plain", "bare"}
    for (figures,) in tiny["many"].values():
        assert figures["windows_per_s"] > 0.0
        assert figures["failed"] == 0.0
    assert tiny["windows"] == 1
    assert (tmp_path / "benchmark.md").read_text() in done.stdout
