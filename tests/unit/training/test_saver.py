"""Checkpoints behind the training: late but whole, one at a time, and no failure is lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import s3fs
import torch
from botocore.retries import standard
from flaky_s3 import Failure, FlakyS3, flaky_s3
from small_configs import train_config

from avs import patience, storage
from avs.errors import CheckpointError, DataError, LeaseError
from avs.storage_remote import ATTEMPTS, StorageError
from avs.training import loop, snapshot
from avs.training.checkpoint import load_checkpoint
from avs.training.config import CheckpointConfig, TrainConfig
from avs.training.loop import train
from avs.training.run import Run
from avs.training.state import Worker

SOON_S = 30.0


def steps_config(prepared: Path, out: str | Path, *, every_steps: int = 1) -> TrainConfig:
    config = replace(train_config(prepared, Path("out"), epochs=1), out=str(out))
    return replace(config, checkpoint=CheckpointConfig(every_steps=every_steps))


class Slow:
    """Holds the first checkpoint back until it is told to go on; counts those under way."""

    def __init__(self) -> None:
        self.going_on, self.begun = threading.Event(), threading.Event()
        self.under_way = self.most = 0
        self._save = snapshot.save_checkpoint

    def save(self, *args: Any, **options: Any) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.begun.set()
        assert self.going_on.wait(SOON_S)
        self._save(*args, **options)
        self.under_way -= 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    held = Slow()
    monkeypatch.setattr(snapshot, "save_checkpoint", held.save)
    return held


def after_step(step: int, what: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``what`` happen at the end of step ``step`` of the run, from 1."""
    take = loop.take_step

    def instead(*args: Any, num_steps: int, **options: Any) -> Any:
        losses = take(*args, num_steps=num_steps, **options)
        if num_steps == step - 1:
            what()
        return losses

    monkeypatch.setattr(loop, "take_step", instead)


def test_steps_go_on_while_a_checkpoint_is_written_and_it_holds_its_own_step(
    prepared: Path, tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = steps_config(prepared, tmp_path / "reference", every_steps=2)
    slow.going_on.set()

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        after_step(3, stop, patch)
        with pytest.raises(KeyboardInterrupt):
            train(reference, Worker())
    slow.going_on.clear()
    slow.begun.clear()
    config = replace(reference, out=str(tmp_path / "run"))
    ended: list[str | None] = []

    def let_go() -> None:  # a step after the one that was to be saved
        assert slow.begun.wait(SOON_S)
        ended.append(Run(config.out).last_uri())
        slow.going_on.set()

    after_step(3, let_go, monkeypatch)
    removed = storage.remove
    monkeypatch.setattr(storage, "remove", lambda uri: None if "step" in uri else removed(uri))
    train(config, Worker())
    assert ended == [None]
    first, second = (
        load_checkpoint(Run(c.out).step_uri(1, 2)).weights for c in (reference, config)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_one_is_written_at_a_time_and_the_wait_is_counted(
    prepared: Path, tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = threading.Timer(0.5, slow.going_on.set)
    after_step(1, timer.start, monkeypatch)
    history = train(steps_config(prepared, tmp_path / "run"), Worker())
    assert slow.most == 1
    assert history[0]["checkpoint_s"] >= 0.1
    assert Run(str(tmp_path / "run")).last_uri() == Run(str(tmp_path / "run")).epoch_uri(1)


def test_the_next_epoch_need_not_wait_for_the_checkpoint_of_the_last(
    prepared: Path, tmp_path: Path, slow: Slow
) -> None:
    config = train_config(prepared, tmp_path / "run", epochs=2)
    told: list[tuple[int, bool]] = []

    def tell(metrics: dict[str, Any]) -> None:
        told.append((metrics["epoch"], Run(config.out).last_uri() is None))
        slow.going_on.set()

    train(config, Worker(after_epoch=tell, commits_first=False))
    assert told[0] == (1, True)
    assert len(Run(config.out).read_metrics()) == 2


@pytest.mark.parametrize("failing", [1, 4])
def test_a_failure_ends_the_training_at_the_next_step_or_at_the_end(
    failing: int, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = steps_config(prepared, tmp_path / "run")
    calls: list[int] = []

    def check_lease() -> None:
        calls.append(1)
        if len(calls) > 2 * (failing - 1):
            raise LeaseError("lost")

    taken: list[int] = []
    for step in range(1, 5):
        after_step(step, lambda step=step: taken.append(step), monkeypatch)
    with pytest.raises(LeaseError, match="lost"):
        train(config, Worker(check_lease=check_lease))
    assert taken[-1] <= failing + 1
    last = Run(config.out).last_uri()
    assert last == (None if failing == 1 else Run(config.out).step_uri(1, 3))


def test_a_training_that_fails_saves_first_and_says_what_it_could_not_save(
    prepared: Path, tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        slow.going_on.set()
        raise RuntimeError("a step")

    with monkeypatch.context() as patch:
        after_step(2, fail, patch)
        config = steps_config(prepared, tmp_path / "run")
        with pytest.raises(RuntimeError, match="a step"):
            train(config, Worker())
        assert Run(config.out).last_uri() == Run(config.out).step_uri(1, 1)

        def lost() -> None:
            raise LeaseError("lost")

        other = steps_config(prepared, tmp_path / "other")
        slow.going_on.clear()
        with pytest.raises(RuntimeError) as caught:
            train(other, Worker(check_lease=lambda: (slow.going_on.wait(SOON_S), lost())[1]))
    assert caught.value.__notes__ == ["A checkpoint could not be saved either: lost"]


@pytest.mark.parametrize(
    "name",
    [
        "metrics.json",
        pytest.param("weights.safetensors", marks=pytest.mark.full),
        pytest.param("trainer_state.pt", marks=pytest.mark.full),
    ],
)
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    name: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = steps_config(prepared, tmp_path / "run")
    write = storage.write_bytes

    def instead(uri: str, data: bytes) -> None:
        if uri.endswith(f"step-000002/{name}"):
            storage.temporary_name(uri).write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(uri, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", instead)
        child = multiprocessing.get_context("fork").Process(target=train, args=(config, Worker()))
        child.start()
        child.join(timeout=120)
    assert child.exitcode == -signal.SIGKILL
    assert Run(config.out).last_uri() == Run(config.out).step_uri(1, 1)
    assert [m["epoch"] for m in train(config, Worker())] == [1]
    left = {i.path.split("/")[0] for i in storage.list_files(f"{config.out}/checkpoints")}
    assert left == {"epoch-0001"}


@pytest.mark.parametrize(
    "name",
    [
        "trainer_state.pt",
        pytest.param("metrics.json", marks=pytest.mark.full),
        pytest.param("last.json", marks=pytest.mark.full),
    ],
)
def test_a_full_disk_is_told_and_leaves_the_checkpoint_before_whole(
    name: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = steps_config(prepared, tmp_path / "run")
    whole = replace(config, out=str(tmp_path / "whole"))
    sync, full = os.fsync, threading.Event()

    def instead(file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        if full.is_set() and path.name.startswith(f".{name}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    def is_full() -> None:
        while Run(config.out).last_uri() is None:
            threading.Event().wait(0.01)
        full.set()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", instead)
        after_step(2, is_full, patch)
        told = rf"{config.out}/.*step-000002 .*disk is full; .*step-000001 is whole. Make room"
        with pytest.raises(CheckpointError, match=told):
            train(config, Worker())
    assert not list(Path(config.out).rglob("*.tmp"))
    assert {p.name for p in Path(config.out, "checkpoints").iterdir()} == {"epoch-0001-step-000001"}
    assert train(config, Worker())[0]["loss"] == train(whole, Worker())[0]["loss"]


@pytest.fixture
def failing_s3(
    s3_address: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FlakyS3, str]]:
    """An S3 that fails on demand, whose clients wait for nothing, and a folder there."""
    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", lambda *_: 0.0)
    monkeypatch.setattr(patience, "PAUSE_S", 0.01)
    s3fs.S3FileSystem.clear_instance_cache()
    with flaky_s3(s3_address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        yield proxy, s3_folder
    s3fs.S3FileSystem.clear_instance_cache()


def test_training_goes_on_while_a_bucket_fails_and_everything_is_saved_after(
    prepared: Path, tmp_path: Path, failing_s3: tuple[FlakyS3, str]
) -> None:
    proxy, folder = failing_s3
    out = storage.join(folder, "run")
    config = steps_config(prepared, out, every_steps=2)
    reference = steps_config(prepared, tmp_path / "run", every_steps=2)
    tries: list[int] = []

    def try_again() -> None:
        tries.append(1)
        if len(tries) == 4:
            proxy.fail("PUT")

    proxy.fail("PUT", *[Failure.SLOW_DOWN] * 1000)
    history = train(config, Worker(check_lease=try_again))
    assert len(tries) >= 4
    assert proxy.requests.count("PUT") >= 8
    assert history[0]["loss"] == train(reference, Worker())[0]["loss"]
    assert load_checkpoint(out).metrics["epoch"] == 1


def test_a_bucket_that_stays_away_or_refuses_ends_the_training_with_its_name(
    prepared: Path, failing_s3: tuple[FlakyS3, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, folder = failing_s3
    config = steps_config(prepared, storage.join(folder, "run"))
    tries: list[int] = []
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    proxy.fail("PUT", *[Failure.INTERNAL] * 1000)
    with pytest.raises(StorageError, match=rf"{config.out}/.* failed {ATTEMPTS} times"):
        train(config, Worker(check_lease=lambda: tries.append(1)))
    assert len(tries) == 1
    monkeypatch.setattr(patience, "PATIENCE_S", 300.0)
    proxy.fail("PUT", *[Failure.DENIED] * 1000)
    with pytest.raises(DataError, match="access is denied"):
        train(config, Worker())
