"""What is read of a run: the rate of its steps without the first epoch, and when it did what."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from events import read_events
from small_configs import train_config

from avs.benchmark.train_figures import run_moments, steady_figures
from avs.errors import AvsError
from avs.training.loop import train
from avs.training.overlays import Overlays
from avs.training.run import Run
from avs.training.state import Worker
from avs.training.tensorboard_log import TensorBoardLog


def _write_epochs(out: Path, *rates: float) -> None:
    lines = [json.dumps({"clips_per_s": rate, "stall": rate / 1000}) for rate in rates]
    (out / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_the_first_epoch_does_not_count_and_times_add_up(tmp_path: Path) -> None:
    _write_epochs(tmp_path, 1.0, 20.0, 60.0)
    # 1 / 20 s and 1 / 60 s a clip are 1 / 30 s on average
    assert steady_figures(tmp_path) == pytest.approx({"clips_per_s": 30.0, "stall": 0.04})
    _write_epochs(tmp_path, 1.0)
    with pytest.raises(AvsError, match="no second epoch"):
        steady_figures(tmp_path)


def test_moments_of_a_run_are_those_of_its_event_file(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = train_config(prepared, out, epochs=1)
    before_s = time.time()
    Run(config.out).claim(config)  # what the driver does
    train(config, Worker(observers=[TensorBoardLog(Overlays(0))]))
    after_s = time.time()

    moments = run_moments(out)
    (file,) = (out / "tensorboard").iterdir()
    told = [event for event in read_events(file.read_bytes()) if event.summary.value]
    first = next(event for event in told if event.step == 1)
    assert moments["begun"] == told[0].wall_time
    assert moments["first_step"] == first.wall_time
    order = [moments[name] for name in ("driver", "begun", "first_step", "epoch")]
    slack_s = 0.01  # of the clock of the file system
    assert order == sorted(order)
    assert before_s - slack_s <= order[0]
    assert order[-1] <= after_s + slack_s


def test_a_run_without_a_step_is_told(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    with pytest.raises(AvsError, match="no first step"):
        run_moments(tmp_path)
