"""What Ray Train's processes take from here, and what they are told, so that a training starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def test_the_controller_takes_the_process_group_without_networks_or_checkpoints() -> None:
    code = "import sys, avs.training.ray_backend; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    own = {name for name in done.stdout.split() if name.startswith("avs.")}
    ours = {"avs.training", "avs.training.notices", "avs.training.ray_backend"}
    assert own == ours | {"avs.errors"}


def test_ray_knows_the_settings_of_a_ray_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(JOBS))
    from _launch import OWN_RAY

    of_train = {name for name in OWN_RAY if name.startswith("RAY_TRAIN_")}
    assert of_train
    assert of_train <= ENV_VARS_TO_PROPAGATE


_NICENESS = """
from _launch import connect
with connect(num_cpus=1):
    import os, ray
    print(ray.get(ray.remote(lambda: os.nice(0)).remote()) <= os.nice(0))
"""


@pytest.fixture
def left_behind() -> Iterator[Path]:
    """A temporary folder of Ray with the note of a cluster that is dead."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:  # socket paths: 107 letters
        note = Path(folder, "ray", "ray_current_cluster")
        note.parent.mkdir()
        note.write_text("127.0.0.1:1")
        yield Path(folder)


@pytest.mark.timeout(120)
def test_a_ray_of_ones_own_is_no_dead_cluster_and_its_workers_give_way_to_nobody(
    left_behind: Path,
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", _NICENESS],
        env=environment | {"PYTHONPATH": str(JOBS), "RAY_TMPDIR": str(left_behind)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"]
