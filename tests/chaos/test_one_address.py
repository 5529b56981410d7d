"""Several nodes where no machines can be made: they share address, disks and code.

This sees less than test_nodes, but workers do run on other nodes than their driver.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"  # Ray reads it when it is imported
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pytest
import s3fs
from chaos_jobs import CLIPS, SMALL_CLIPS
from machines import ROOT, can_make_machines
from ray.cluster_utils import Cluster

from avs.datasets.synthetic import write_synthetic

pytestmark = [pytest.mark.timeout(600)]


@pytest.fixture
def address() -> Iterator[str]:
    """Of a head and two nodes of two CPUs."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # socket paths: 107 characters
    head = {"temp_dir": folder, "include_dashboard": False}
    size = {"num_cpus": 2, "object_store_memory": 150_000_000}
    nodes = Cluster(initialize_head=True, head_node_args=head | size)
    try:
        for _ in range(2):
            nodes.add_node(**size)
        nodes.wait_for_nodes()
        yield nodes.address
    finally:
        nodes.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _run(address: str, job: str, *overrides: str) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / job), *overrides],
        env=env,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.mark.skipif(
    not can_make_machines() and not os.environ.get("AVS_ONE_ADDRESS"),
    reason="test_nodes has machines of their own, which see more; AVS_ONE_ADDRESS=1 runs this too",
)
def test_prepare_and_train_on_two_nodes(address: str, s3_folder: str, tmp_path: Path) -> None:
    write_synthetic(tmp_path, CLIPS)
    s3fs.S3FileSystem().put(f"{tmp_path}/", f"{s3_folder}/in/", recursive=True)
    prepared, run = f"{s3_folder}/prepared", f"{s3_folder}/run"
    source = ["data=ms3", f"data.root={s3_folder}/in", "shard_clips=4"]
    _run(address, "prepare.py", *source, *SMALL_CLIPS, f"out={prepared}")
    ranks = ["scale.num_workers=2", "scale.cpus_per_worker=2"]  # each fills a node
    training = ["model=tiny", "train.epochs=1", "train.batch_size=2", "logging.report=false"]
    _run(address, "train.py", *training, *ranks, f"data.prepared={prepared}", f"out={run}")
    lines = s3fs.S3FileSystem().cat(f"{run}/metrics.jsonl").splitlines()
    assert [json.loads(line)["workers"] for line in lines] == [2]
