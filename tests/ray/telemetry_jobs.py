"""Jobs on a Ray of their own with its dashboard: python telemetry_jobs.py FOLDER ROOT RAY_FOLDER.

Prepares the S4 folder ROOT and trains on it for an epoch, then prints as one
line of JSON what Ray shows of it: the names of its actors, the metrics, and where its logs are.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["AVS_LOG_LEVEL"] = "DEBUG"
os.environ.pop("RAY_ADDRESS", None)

import ray
from ray.util.state import list_actors
from small_configs import TWO_WORKERS, train_config

from avs.datasets import DataConfig
from avs.prepare import PrepareConfig
from avs.prepare.pipeline import prepare
from avs.training.distributed import train_distributed

METRICS = ("ray_avs_job_items", "ray_avs_job_stage_seconds_count", "ray_avs_train_")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _metrics(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line.startswith(METRICS)]


def _run(folder: Path, root: str) -> None:
    prepared = folder / "prepared"
    data = DataConfig(name="s4", root=root, image_size_px=32, num_frames=5)
    config = PrepareConfig(data=data, scale=TWO_WORKERS, out=str(prepared), shard_clips=4)
    prepare(config, say=lambda _: None)
    training = train_config(prepared, folder / "run", epochs=1)
    train_distributed(training, say=lambda _: None)


def main(folder: Path, root: str, ray_folder: str) -> dict[str, Any]:
    """Run, and return what Ray shows."""
    port = _free_port()
    context = ray.init(
        "local",
        num_cpus=4,
        object_store_memory=200_000_000,
        include_dashboard=True,
        dashboard_port=_free_port(),
        log_to_driver=False,
        logging_level="warning",
        _temp_dir=ray_folder,
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 500},
    )
    _run(folder, root)
    shown = list_actors(address=f"http://{context.dashboard_url}", limit=1000)
    found = {
        "actors": sorted({actor.class_name for actor in shown}),
        "metrics": _metrics(port),
        "logs": str(Path(ray._private.worker._global_node.get_logs_dir_path())),
    }
    ray.shutdown()
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])))
