"""The demo with a handful of clips: every stage runs, and they fit together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avs import Predictor

REPO = Path(__file__).parents[2]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_every_stage_runs_and_serve_gives_the_masks_of_the_job(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [
            sys.executable,
            str(REPO / "jobs" / "demo.py"),
            f"out='{out}'",
            "data.synthetic.num_train=8",
            "data.synthetic.num_val=2",
            "data.synthetic.num_test=3",
            "train.epochs=1",
            "tune_epochs=1",
        ],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["serve_equals_segment"] is True
    assert set(summary["seconds"]) == {
        "prepare",
        "train",
        "evaluate",
        "tune",
        "segment",
        "serve",
        "total",
    }
    for key in ("j_true", "j_silent", "j_swapped", "f_true"):
        assert 0 <= summary[key] <= 1
    for name in ("data", "prepared", "run", "checkpoint", "sweep", "segment", "report.html"):
        assert (out / name).exists(), name
        assert name in ("data", "prepared", "run", "sweep", "segment") or name in done.stdout
    assert Predictor.from_checkpoint(str(out / "checkpoint")).clip.num_frames == 5
    assert "true" in done.stdout
    assert "swapped" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
