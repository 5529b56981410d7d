"""The training job on two ranks: whatever is killed, it ends as a run that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from killing import kill_all, wait_until
from small_configs import TWO_WORKERS, train_config

from avs.datasets import DataConfig
from avs.datasets.synthetic import Layout, SyntheticConfig
from avs.errors import ConfigError, DataError, LeaseError
from avs.prepare import PrepareConfig
from avs.prepare.pipeline import prepare
from avs.scale import ScaleConfig
from avs.training.checkpoint import load_checkpoint
from avs.training.config import CheckpointConfig, TrainConfig
from avs.training.distributed import train_distributed

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def prepared(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    synthetic = SyntheticConfig(
        layout=Layout.MS3, num_train=13, num_val=3, num_test=2, size_px=32, duration_s=5
    )
    data = DataConfig(
        name="synthetic",
        root=str(folder / "data"),
        image_size_px=32,
        num_frames=5,
        synthetic=synthetic,
    )
    out = folder / "prepared"
    prepare(
        PrepareConfig(data=data, scale=TWO_WORKERS, out=str(out), shard_clips=8), say=lambda _: None
    )
    return out


def _config(
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


def _weights(run: Path) -> dict[str, torch.Tensor]:
    last = run / json.loads((run / "last.json").read_text())["checkpoint"]
    return safetensors.torch.load_file(last / "weights.safetensors")


def _pointer(run: Path) -> str:
    """The name of the last checkpoint, empty before the first."""
    last = run / "last.json"
    return Path(json.loads(last.read_text())["checkpoint"]).name if last.exists() else ""


def _is_inside_an_epoch(run: Path) -> bool:
    return "step" in _pointer(run) and "epoch-0001" not in _pointer(run)


def test_killed_with_its_driver_and_started_again_it_goes_on_at_the_step(
    prepared: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    history = train_distributed(_config(prepared, whole), say=lambda _: None)

    # Its Ray instance dies with it, as when a machine is lost.
    with _job("alone", prepared, killed) as job:
        try:
            wait_until(lambda: _is_inside_an_epoch(killed), job)
        finally:
            kill_all(f"AVS_TEST_RUN={killed}")
    assert 1 <= len((killed / "metrics.jsonl").read_text().splitlines()) < 3

    lines: list[str] = []
    resumed = train_distributed(_config(prepared, killed), say=lines.append)

    assert any("going on after step" in line for line in lines)
    for one, other in zip(history, resumed, strict=True):
        for key in ("epoch", "loss", "val_j", "val_f"):
            assert one[key] == other[key]
    for name, value in _weights(whole).items():
        assert torch.equal(value, _weights(killed)[name]), name
    assert load_checkpoint(str(killed)).clip.num_frames == 5
    logged = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in logged] == [1, 2, 3]
    assert not (killed / "_ray").exists()


@pytest.mark.full
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(
    prepared: Path, tmp_path: Path
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    reference = train_distributed(_config(prepared, calm), say=lambda _: None)
    victims: list[int] = []

    def kill() -> None:
        victims.extend(_rank_pids())
        os.kill(victims[0], signal.SIGKILL)

    with _when(lambda: _is_inside_an_epoch(killed), kill):
        history = train_distributed(_config(prepared, killed), say=lambda _: None)

    assert len(victims) == 2
    assert [m["loss"] for m in history] == [m["loss"] for m in reference]


@pytest.mark.full
def test_workers_that_are_killed_again_and_again_are_replaced_while_it_gets_on(
    prepared: Path, tmp_path: Path
) -> None:
    killed, num_kills, seen = tmp_path / "killed", 4, [""]  # more than Ray itself takes

    def gets_on() -> bool:
        return _pointer(killed) not in ("", seen[-1]) and bool(_rank_pids())

    def kill() -> None:
        for _ in range(num_kills):
            while not gets_on():
                time.sleep(0.02)
            seen.append(_pointer(killed))
            os.kill(_rank_pids()[0], signal.SIGKILL)

    lines: list[str] = []
    with _when(gets_on, kill):
        history = train_distributed(_config(prepared, killed, epochs=4), say=lines.append)
    assert [m["epoch"] for m in history] == [1, 2, 3, 4]
    assert len(seen) == num_kills + 1
    assert any("starting them again" in line for line in lines)


@pytest.mark.full
def test_a_worker_that_is_told_to_end_lets_all_of_them_save_their_step(
    prepared: Path, tmp_path: Path
) -> None:
    out, seen = tmp_path / "told", threading.Event()
    config = _config(prepared, out, epochs=60, every_steps=None)

    def tell() -> None:
        os.kill(_rank_pids()[0], signal.SIGTERM)
        while not seen.is_set() and _pointer(out) != "epoch-0060":
            if "step" in _pointer(out):
                seen.set()
            time.sleep(0.005)

    with _when(lambda: bool(_pointer(out)), tell):
        history = train_distributed(config, say=lambda _: None)
    assert seen.is_set()
    assert len(history) == 60


@pytest.mark.full
def test_a_lost_node_leaves_a_training_that_goes_on_with_fewer_workers(
    prepared: Path, tmp_path: Path
) -> None:
    whole, fewer = tmp_path / "whole", tmp_path / "fewer"
    history = train_distributed(_config(prepared, whole), say=lambda _: None)
    with _job("losing", prepared, fewer) as job:
        try:
            assert job.wait(timeout=400) == 0
        finally:
            kill_all(f"AVS_TEST_RUN={fewer}")
    logged = [json.loads(line) for line in (fewer / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in logged] == [1, 2, 3]
    # The clips, the global batch and what stochastic layers draw are the same; sums are not.
    assert [m["loss"] for m in logged] == pytest.approx([m["loss"] for m in history], rel=1e-4)


def test_mistakes_end_before_anything_starts(prepared: Path, tmp_path: Path) -> None:
    config = _config(prepared, tmp_path / "big")
    config.scale = ScaleConfig(num_workers=64, cpus_per_worker=1, gpus_per_worker=0)
    with pytest.raises(ConfigError, match=r"needs 64 CPUs, the cluster has 4"):
        train_distributed(config)
    with pytest.raises(DataError, match="does not exist"):
        train_distributed(_config(tmp_path / "nothing", tmp_path / "out"))


def test_another_configuration_in_the_same_folder_is_refused(
    prepared: Path, tmp_path: Path
) -> None:
    train_distributed(_config(prepared, tmp_path, epochs=1), say=lambda _: None)
    with pytest.raises(ConfigError, match="seed"):
        train_distributed(_config(prepared, tmp_path, epochs=1, seed=2), say=lambda _: None)


def test_a_second_run_refuses_while_the_first_lives(prepared: Path, tmp_path: Path) -> None:
    from avs.lease import Lease

    with (
        Lease(str(tmp_path), job="train", heartbeat_s=0.5),
        pytest.raises(LeaseError, match="another run"),
    ):
        train_distributed(_config(prepared, tmp_path), say=lambda _: None)


def _job(how: str, prepared: Path, out: Path) -> subprocess.Popen[bytes]:
    """A training in a process and a Ray of its own, which a mark in the environment tells."""
    command = [sys.executable, __file__, how, str(prepared), str(out)]
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        command, env={**os.environ, "AVS_TEST_RUN": str(out), "PYTHONPATH": path}
    )


class _when:  # noqa: N801 (used as a context manager, like a function)
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


def _rank_pids() -> list[int]:
    """Processes that Ray runs the training ranks in."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and b"RayTrainWorker" in title:
                found.append(int(folder.name))
    return found


def _train_alone(config: TrainConfig) -> None:
    import ray

    ray.init(
        num_cpus=4, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False
    )
    train_distributed(config)


def _train_and_lose_a_node(config: TrainConfig) -> None:
    """Two nodes with a CPU each; the second one is lost inside an epoch."""
    import ray
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 200_000_000}
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**options, "temp_dir": folder, "include_dashboard": False},
    )
    node = cluster.add_node(**options)
    ray.init(address=cluster.address, log_to_driver=False)
    out = Path(config.out)
    scale = replace(config.scale, min_workers=1)
    lose = lambda: cluster.remove_node(node, allow_graceful=False)  # noqa: E731
    with _when(lambda: _is_inside_an_epoch(out), lose):
        train_distributed(replace(config, scale=scale))
    assert len([n for n in ray.nodes() if n["Alive"]]) == 1
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    how, prepared_folder, out_folder = sys.argv[1:]
    start = {"alone": _train_alone, "losing": _train_and_lose_a_node}[how]
    start(_config(Path(prepared_folder), Path(out_folder)))
