"""Trainings in a process and a Ray of their own, for tests that kill them or a part of them.

Run as a script, it is such a training; imported, it starts one and looks on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from small_configs import TWO_WORKERS, train_config

from avs.scale import ScaleConfig
from avs.training.config import CheckpointConfig, TrainConfig
from avs.training.distributed import train_distributed

__all__ = [
    "When",
    "is_inside_an_epoch",
    "pointer",
    "processes_of_ray",
    "rank_pids",
    "run_config",
    "start_job",
]


def run_config(
    prepared: Path,
    out: Path,
    *,
    epochs: int = 3,
    seed: int = 1,
    every_steps: int | None = 1,
    scale: ScaleConfig = TWO_WORKERS,
) -> TrainConfig:
    config = train_config(prepared, out, epochs=epochs, seed=seed, scale=scale)
    return replace(config, checkpoint=CheckpointConfig(every_steps=every_steps))


def pointer(run: Path) -> str:
    """The name of the last checkpoint, empty before the first."""
    last = run / "last.json"
    return Path(json.loads(last.read_text())["checkpoint"]).name if last.exists() else ""


def is_inside_an_epoch(run: Path) -> bool:
    return "step" in pointer(run) and "epoch-0001" not in pointer(run)


def start_job(how: str, prepared: Path, out: Path) -> subprocess.Popen[bytes]:
    """A training in a process and a Ray of its own, which a mark in the environment tells."""
    command = [sys.executable, __file__, how, str(prepared), str(out)]
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        command, env={**os.environ, "AVS_TEST_RUN": str(out), "PYTHONPATH": path}
    )


class When:
    """Do something once, beside the block, as soon as a condition holds."""

    def __init__(self, happened: Callable[[], bool], do: Callable[[], None]) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(happened, do), daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=30)

    def _watch(self, happened: Callable[[], bool], do: Callable[[], None]) -> None:
        while not self._ended.wait(0.01):
            if happened():
                do()
                break


def rank_pids() -> list[int]:
    """Those of the training ranks."""
    return processes_of_ray("RayTrainWorker")


def processes_of_ray(actor: str) -> list[int]:
    """Processes below this one that Ray runs such actors in; others on the machine are not ours to
    kill."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(actor in part for part in process.cmdline()[:1]):
                found.append(process.pid)
    return found


def _train_alone(config: TrainConfig) -> None:
    import ray

    ray.init(
        "local",
        num_cpus=4,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
    )
    train_distributed(config)


def _train_for_long(config: TrainConfig) -> None:
    """No checkpoint but those of epochs, unless it is told to end."""
    loop, data = replace(config.train, epochs=1000), replace(config.data, weights=[10.0])
    _train_alone(replace(config, checkpoint=CheckpointConfig(), train=loop, data=data))


def _train_and_lose_a_node(config: TrainConfig) -> None:
    """The second of two nodes is lost inside an epoch."""
    import ray

    out = Path(config.out)
    with _two_nodes() as (cluster, node):
        lose = partial(cluster.remove_node, node, allow_graceful=False)
        with When(lambda: is_inside_an_epoch(out), lose):
            train_distributed(replace(config, scale=replace(config.scale, min_workers=1)))
        assert len([n for n in ray.nodes() if n["Alive"]]) == 1


def _train_and_drain_a_node(config: TrainConfig) -> None:
    """The second of two nodes is told to end and lost as soon as a step was saved."""
    out, seen = Path(config.out), threading.Event()
    config = replace(config, checkpoint=CheckpointConfig())
    config = replace(config, train=replace(config.train, epochs=60))
    with _two_nodes() as (cluster, node):

        def drain() -> None:
            _ray_command("drain-node", "--address", cluster.address, "--node-id", node.node_id)
            while "step" not in pointer(out) and pointer(out) != "epoch-0060":
                time.sleep(0.005)
            if "step" in pointer(out):
                seen.set()
            cluster.remove_node(node, allow_graceful=False)

        with When(lambda: bool(pointer(out)), drain):
            train_distributed(replace(config, scale=replace(config.scale, min_workers=1)))
    assert seen.is_set(), "no checkpoint inside an epoch"


def _ray_command(*arguments: str) -> None:
    told = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test")
    deadline = ("--deadline-remaining-seconds", "60")
    ray_script = str(Path(sys.executable).with_name("ray"))
    subprocess.run([ray_script, *arguments, *told, *deadline], check=True)


@contextmanager
def _two_nodes() -> Iterator[tuple[Any, Any]]:
    """A cluster whose nodes have a CPU each, and the second one."""
    import ray
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 200_000_000}
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    os.environ["RAY_TMPDIR"] = folder  # the note of the latest cluster too, which outlives a kill
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        node = cluster.add_node(**options)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, node
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    how, prepared_folder, out_folder = sys.argv[1:]
    start = {
        "alone": _train_alone,
        "long": _train_for_long,
        "losing": _train_and_lose_a_node,
        "draining": _train_and_drain_a_node,
    }[how]
    start(run_config(Path(prepared_folder), Path(out_folder)))
