"""The training job on two ranks: killed and started again it equals an uninterrupted run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_configs import TWO_WORKERS, train_config

from avs.datasets import DataConfig
from avs.datasets.synthetic import Layout, SyntheticConfig
from avs.errors import ConfigError, DataError, LeaseError
from avs.prepare import PrepareConfig
from avs.prepare.pipeline import prepare
from avs.scale import ScaleConfig
from avs.training.checkpoint import load_checkpoint
from avs.training.config import TrainConfig
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


def _config(prepared: Path, out: Path, *, epochs: int = 3, seed: int = 1) -> TrainConfig:
    return train_config(prepared, out, epochs=epochs, seed=seed, scale=TWO_WORKERS)


def _weights(run: Path) -> dict[str, torch.Tensor]:
    last = run / json.loads((run / "last.json").read_text())["checkpoint"]
    return safetensors.torch.load_file(last / "weights.safetensors")


def test_killed_and_started_again_it_equals_the_uninterrupted_run(
    prepared: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    history = train_distributed(_config(prepared, whole), say=lambda _: None)

    # Its Ray instance dies with it, as when a machine is lost.
    command = [sys.executable, __file__, str(prepared), str(killed)]
    mark = f"AVS_TEST_RUN={killed}"
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "AVS_TEST_RUN": str(killed), "PYTHONPATH": tests}
    with subprocess.Popen(command, env=environment) as job:
        try:
            _wait_for(killed / "last.json", job)
        finally:
            _kill_all(mark)
    done = len((killed / "metrics.jsonl").read_text().splitlines())
    assert 1 <= done < 3

    lines: list[str] = []
    resumed = train_distributed(_config(prepared, killed), say=lines.append)

    assert any("going on after epoch" in line for line in lines)
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

    def kill_once(line: str) -> None:
        if "epoch 1 done" in line and not victims:
            victims.extend(_rank_pids())
            os.kill(victims[0], signal.SIGKILL)

    history = train_distributed(_config(prepared, killed), say=kill_once)

    assert victims
    assert [m["loss"] for m in history] == [m["loss"] for m in reference]


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


def _wait_for(path: Path, job: subprocess.Popen[bytes], deadline_s: float = 240) -> None:
    end_s = time.monotonic() + deadline_s
    while not path.exists():
        assert job.poll() is None, "the job ended before its first epoch"
        assert time.monotonic() < end_s, f"{path} did not appear"
        time.sleep(0.02)


def _kill_all(mark: str) -> None:
    """SIGKILL every process that inherited ``mark`` in its environment."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)


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


def _train_in_a_ray_of_its_own(prepared: str, out: str) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    ray.init(
        num_cpus=4, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False
    )
    train_distributed(_config(Path(prepared), Path(out)))


if __name__ == "__main__":
    _train_in_a_ray_of_its_own(*sys.argv[1:])
