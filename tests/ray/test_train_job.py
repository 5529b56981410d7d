"""The training job on two ranks: whatever is killed, it ends as a run that was not."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from killing import kill_all, wait_until
from lost_trainings import (
    When,
    is_inside_an_epoch,
    pointer,
    rank_pids,
    run_config,
    start_job,
)
from prepared_clips import prepare_synthetic

from avs.datasets.synthetic import Layout
from avs.errors import ConfigError, DataError, LeaseError
from avs.scale import ScaleConfig
from avs.training.checkpoint import load_checkpoint
from avs.training.distributed import train_distributed

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def prepared(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    return prepare_synthetic(
        folder, layout=Layout.MS3, num_train=13, num_val=3, num_test=2, duration_s=5
    )


def _weights(run: Path) -> dict[str, torch.Tensor]:
    last = run / json.loads((run / "last.json").read_text())["checkpoint"]
    return safetensors.torch.load_file(last / "weights.safetensors")


def test_killed_with_its_driver_and_started_again_it_goes_on_at_the_step(
    prepared: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    history = train_distributed(run_config(prepared, whole), say=lambda _: None)

    # Its Ray instance dies with it, as when a machine is lost.
    with start_job("alone", prepared, killed) as job:
        try:
            wait_until(lambda: is_inside_an_epoch(killed), job)
        finally:
            kill_all(f"AVS_TEST_RUN={killed}")
    assert 1 <= len((killed / "metrics.jsonl").read_text().splitlines()) < 3

    lines: list[str] = []
    resumed = train_distributed(run_config(prepared, killed), say=lines.append)

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
    reference = train_distributed(run_config(prepared, calm), say=lambda _: None)
    victims: list[int] = []

    def kill() -> None:
        victims.extend(rank_pids())
        os.kill(victims[0], signal.SIGKILL)

    with When(lambda: is_inside_an_epoch(killed), kill):
        history = train_distributed(run_config(prepared, killed), say=lambda _: None)

    assert len(victims) == 2
    assert [m["loss"] for m in history] == [m["loss"] for m in reference]


@pytest.mark.full
def test_workers_that_are_killed_again_and_again_are_replaced_while_it_gets_on(
    prepared: Path, tmp_path: Path
) -> None:
    killed, num_kills, seen = tmp_path / "killed", 4, [""]  # more than Ray itself takes

    def gets_on() -> bool:
        return pointer(killed) not in ("", seen[-1]) and bool(rank_pids())

    def kill() -> None:
        for _ in range(num_kills):
            while not gets_on():
                time.sleep(0.02)
            seen.append(pointer(killed))
            os.kill(rank_pids()[0], signal.SIGKILL)

    lines: list[str] = []
    with When(gets_on, kill):
        history = train_distributed(run_config(prepared, killed, epochs=4), say=lines.append)
    assert [m["epoch"] for m in history] == [1, 2, 3, 4]
    assert len(seen) == num_kills + 1
    assert any("starting them again" in line for line in lines)


@pytest.mark.full
def test_a_worker_that_is_told_to_end_lets_all_of_them_save_their_step(
    prepared: Path, tmp_path: Path
) -> None:
    out, seen = tmp_path / "told", threading.Event()
    config = run_config(prepared, out, epochs=60, every_steps=None)

    def tell() -> None:
        os.kill(rank_pids()[0], signal.SIGTERM)
        while not seen.is_set() and pointer(out) != "epoch-0060":
            if "step" in pointer(out):
                seen.set()
            time.sleep(0.005)

    with When(lambda: bool(pointer(out)), tell):
        history = train_distributed(config, say=lambda _: None)
    assert seen.is_set()
    assert len(history) == 60


@pytest.mark.full
def test_a_job_that_is_told_to_end_saves_its_step_first(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "told"
    with start_job("long", prepared, out) as job:
        try:
            wait_until(lambda: bool(pointer(out)), job)
            job.send_signal(signal.SIGTERM)
            assert job.wait(timeout=60) == 143
            assert "step" in pointer(out)
        finally:
            kill_all(f"AVS_TEST_RUN={out}")
    assert not (out / "_lease.json").exists()
    assert not (out / "_ending.json").exists()


@pytest.mark.full
def test_a_lost_node_leaves_a_training_that_goes_on_with_fewer_workers(
    prepared: Path, tmp_path: Path
) -> None:
    whole, fewer = tmp_path / "whole", tmp_path / "fewer"
    history = train_distributed(run_config(prepared, whole), say=lambda _: None)
    with start_job("losing", prepared, fewer) as job:
        try:
            assert job.wait(timeout=400) == 0
        finally:
            kill_all(f"AVS_TEST_RUN={fewer}")
    logged = [json.loads(line) for line in (fewer / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in logged] == [1, 2, 3]
    # The clips, the global batch and what stochastic layers draw are the same; sums are not.
    assert [m["loss"] for m in logged] == pytest.approx([m["loss"] for m in history], rel=1e-4)


@pytest.mark.full
def test_a_node_that_is_drained_lets_all_ranks_save_their_step(
    prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "drained"
    with start_job("draining", prepared, out) as job:
        try:
            assert job.wait(timeout=500) == 0
        finally:
            kill_all(f"AVS_TEST_RUN={out}")
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 60


def test_mistakes_end_before_anything_starts(prepared: Path, tmp_path: Path) -> None:
    config = run_config(prepared, tmp_path / "big")
    config.scale = ScaleConfig(num_workers=64, cpus_per_worker=1, gpus_per_worker=0)
    with pytest.raises(ConfigError, match=r"num_workers=64 .* needs 64 CPUs, the cluster has 4"):
        train_distributed(config)
    config.scale.min_workers = 5
    with pytest.raises(ConfigError, match=r"min_workers=5 .* needs 5 CPUs, the cluster has 4"):
        train_distributed(config)
    with pytest.raises(DataError, match="does not exist"):
        train_distributed(run_config(tmp_path / "nothing", tmp_path / "out"))


def test_another_configuration_in_the_same_folder_is_refused(
    prepared: Path, tmp_path: Path
) -> None:
    train_distributed(run_config(prepared, tmp_path, epochs=1), say=lambda _: None)
    with pytest.raises(ConfigError, match="seed"):
        train_distributed(run_config(prepared, tmp_path, epochs=1, seed=2), say=lambda _: None)


def test_a_second_run_refuses_while_the_first_lives(prepared: Path, tmp_path: Path) -> None:
    from avs.lease import Lease

    with (
        Lease(str(tmp_path), job="train", heartbeat_s=0.5),
        pytest.raises(LeaseError, match="another run"),
    ):
        train_distributed(run_config(prepared, tmp_path), say=lambda _: None)
