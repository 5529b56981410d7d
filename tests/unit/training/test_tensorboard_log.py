"""TensorBoard's files of a run: everything is there, once, whatever happened to the run."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from events import read_events, read_folder
from PIL import Image
from small_configs import train_config

import avs
from avs import storage
from avs.training.config import LoggingConfig, TrainConfig
from avs.training.feed import ClipReader
from avs.training.loop import train
from avs.training.observers import SeenStart, SeenSteps
from avs.training.open_observers import open_observers
from avs.training.overlays import Overlays
from avs.training.run import Run
from avs.training.state import TrainingState, Worker
from avs.training.tensorboard_log import TensorBoardLog

TIMED = ("clips_per_s", "stall", "seconds", "validation_s", "peak_bytes")


def _config(prepared: Path, out: Path | str, **changes: Any) -> TrainConfig:
    config = train_config(prepared, Path("run"), **changes)
    logging = LoggingConfig(every_steps=1, tensorboard=True, num_pictures=2)
    return replace(config, logging=logging, out=str(out))


def _train(config: TrainConfig, **worker: Any) -> list[dict[str, Any]]:
    return train(config, Worker(observers=open_observers(config), **worker))


def _logged(out: Path | str, to: Path) -> dict[str, list[tuple[int, Any]]]:
    """What was logged, by tag, copied from wherever it is."""
    to.mkdir(exist_ok=True)
    folder = storage.join(str(out), "tensorboard")
    for info in storage.list_files(folder):
        (to / info.path).write_bytes(storage.read_bytes(storage.join(folder, info.path)))
    return read_folder(to)


def test_everything_of_a_run_is_logged(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    history = _train(_config(prepared, out))
    found = read_folder(out / "tensorboard")
    losses = found["train/loss"]
    assert [step for step, _ in losses] == list(range(1, 9))
    for metrics in history:
        own = [value for step, value in losses if (step - 1) // 4 + 1 == metrics["epoch"]]
        assert np.mean(own) == pytest.approx(metrics["loss"], rel=1e-5)
    for tag, key in (("validation/J", "val_j"), ("validation/F", "val_f"), ("epoch/loss", "loss")):
        assert [step for step, _ in found[tag]] == [4, 8]
        assert [v for _, v in found[tag]] == pytest.approx([m[key] for m in history])
    for tag in ("train/learning_rate", "train/loss_bce", "train/clips_per_s", "train/stall"):
        assert len(found[tag]) >= 6, tag
    assert found["memory/peak_bytes"][0][1] > 50e6
    (step, code), (_, text) = found["code"][0], found["configuration"][0]
    assert step == 0
    assert code.string_val[0].decode().startswith(avs.__version__)
    assert "    learning_rate: 0.003\n" in text.string_val[0].decode()


def test_the_same_validation_clips_are_shown_after_each_epoch(
    prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _train(_config(prepared, out))
    shown = {k: v for k, v in read_folder(out / "tensorboard").items() if "prediction" in k}
    reader = ClipReader(str(prepared), split="val")
    ids = [reader.clip_ids()[index] for index in (0, 1)]
    assert sorted(shown) == sorted(f"frame, truth, prediction/{clip_id}" for clip_id in ids)
    clip = reader.read([0])
    for tag, values in shown.items():
        assert [step for step, _ in values] == [4, 8], tag
    image = shown[f"frame, truth, prediction/{ids[0]}"][0][1]
    assert (image.height, image.width) == (64, 3 * 64)
    pixels = np.array(Image.open(io.BytesIO(image.encoded_image_string)))
    frame, truth, _ = np.split(pixels, 3, axis=1)
    middle = clip.frames[0, 2].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(frame, middle)
    mask = clip.masks[0, 2].numpy() > 0
    changed = (truth != middle).any(axis=2)
    assert mask.any()
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.9


@pytest.mark.parametrize("commits", [False, True], ids=["uncommitted", "committed"])
def test_a_run_that_was_stopped_has_every_step_once(
    prepared: Path, tmp_path: Path, commits: bool, place: str
) -> None:
    whole = _config(prepared, tmp_path / "whole")
    _train(whole)
    wanted = _logged(whole.out, tmp_path / "a")

    class StopError(Exception):
        pass

    looks: list[int] = []

    def stop(_: dict[str, Any]) -> None:
        raise StopError

    def check_lease() -> None:
        looks.append(len(Run(place).read_metrics()))
        if looks.count(1) == 2:  # in the second epoch: all is logged, nothing is committed
            raise StopError

    stopped = _config(prepared, place)
    hook: dict[str, Any] = {"after_epoch": stop} if commits else {"check_lease": check_lease}
    with pytest.raises(StopError):
        _train(stopped, **hook)
    _train(stopped)
    found = _logged(place, tmp_path / "b")
    assert found.keys() == wanted.keys()
    for tag, values in wanted.items():
        if tag in ("code", "configuration"):  # of each start
            assert [step for step, _ in found[tag]] == [0, 4]
            continue
        assert [step for step, _ in found[tag]] == [step for step, _ in values], tag
        if not tag.endswith(TIMED):
            assert found[tag] == values, tag


def test_a_run_that_nobody_logged_before_gets_its_epochs(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    history = train(_config(prepared, out, epochs=1), Worker())
    _train(_config(prepared, out))
    found = read_folder(out / "tensorboard")
    assert [step for step, _ in found["validation/J"]] == [4, 8]
    assert found["epoch/loss"][0][1] == pytest.approx(history[0]["loss"])
    assert [step for step, _ in found["train/loss"]] == [5, 6, 7, 8]


@pytest.fixture
def state(prepared: Path, tmp_path: Path) -> TrainingState:
    return TrainingState(_config(prepared, tmp_path / "run"), Worker())


def _point(step: int, loss: float) -> SeenSteps:
    return SeenSteps(step=step, epoch=1, scalars={"train/loss": loss})


def test_what_came_after_the_step_of_a_new_start_is_cut(
    state: TrainingState, tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    for first, last, saves in ((0, 3, (2,)), (2, 9, (4, 6)), (5, 7, ())):
        log = TensorBoardLog(Overlays(0))  # of a process that is killed after ``last``
        log.on_start(SeenStart(out=out, step=first, state=state))
        for step in range(first + 1, last + 1):
            log.on_steps(_point(step, 10 * first + step))
            if step in saves:
                log.on_save(step)
    found = read_folder(tmp_path / "run/tensorboard")
    assert found["train/loss"] == [(1, 1), (2, 2), (3, 23), (4, 24), (5, 25), (6, 56), (7, 57)]


def test_a_tensorboard_that_is_open_forgets_what_was_cut(
    state: TrainingState, tmp_path: Path
) -> None:
    log = TensorBoardLog(Overlays(0))
    log.on_start(SeenStart(out=str(tmp_path), step=6, state=state))
    (path,) = (tmp_path / "tensorboard").iterdir()
    _, restart, *_ = read_events(path.read_bytes())
    assert (restart.session_log.status, restart.step) == (1, 7)


def test_a_disk_that_is_full_hides_nothing_that_follows(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = TensorBoardLog(Overlays(0))
    log.on_start(SeenStart(out=str(tmp_path), step=0, state=state))
    log.on_steps(_point(1, 1))
    real = Path.open

    def full(path: Path, mode: str) -> Any:
        with real(path, mode) as file:
            file.write(b"half a reco")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="no space"):
            log.on_steps(_point(2, 2))
    log.on_steps(_point(3, 3))
    assert read_folder(tmp_path / "tensorboard")["train/loss"] == [(1, 1), (3, 3)]


def test_a_number_that_is_none_is_left_out(state: TrainingState, tmp_path: Path) -> None:
    log = TensorBoardLog(Overlays(0))
    log.on_start(SeenStart(out=str(tmp_path), step=0, state=state))
    scalars = {"train/gradient_norm": float("inf"), "train/loss": 1.0}
    log.on_steps(SeenSteps(step=1, epoch=1, scalars=scalars))
    found = read_folder(tmp_path / "tensorboard")
    assert "train/gradient_norm" not in found
    assert found["train/loss"] == [(1, 1.0)]
