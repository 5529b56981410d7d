"""A run that is stopped at any step goes on there, and ends as one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_configs import AVSC_OPTIONS, MEASURED, model_config, train_config

from avs import storage
from avs.errors import ConfigError
from avs.losses import LossConfig
from avs.training import loop
from avs.training.checkpoint import load_checkpoint, load_trainer_state
from avs.training.config import CheckpointConfig, Schedule, TrainConfig
from avs.training.loop import train
from avs.training.run import Run
from avs.training.state import TrainingState, Worker

# Everything that draws or remembers: layers, moving average, teacher, augmentation, schedule.
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"ema_decay": 0.9, "accumulate_steps": 2, "batch_size": 1},
    "drawing": {"crop_scale": (0.3, 1.0), "color_jitter": (0.4, 0.4, 0.4, 0.1)},
}


def run_config(prepared: Path, out: Path, *, every_steps: int | None = 1, **changes: Any) -> Any:
    config = train_config(prepared, out, schedule=Schedule.COSINE, **changes)
    return replace(config, checkpoint=CheckpointConfig(every_steps=every_steps))


def drawing_model(config: TrainConfig) -> TrainConfig:
    options = {"fusion_width": 16, "drop_path": 0.5}
    return replace(config, model=model_config(options=options))


def avsc_model(config: TrainConfig) -> TrainConfig:
    model = model_config(name="avsc", options=AVSC_OPTIONS)
    return replace(config, model=model, loss=LossConfig(dice_weight=1.0))


def stop_at(step: int, how: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``how`` happen before step ``step`` of the run, from 0."""
    take = loop.take_step

    def instead(*args: Any, num_steps: int, **options: Any) -> Any:
        if num_steps == step:
            how()
        return take(*args, num_steps=num_steps, **options)

    monkeypatch.setattr(loop, "take_step", instead)


def interrupt() -> None:
    raise KeyboardInterrupt


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.items() if k not in MEASURED} for m in history]


def assert_same_end(one: str, other: str) -> None:
    """Weights and everything in trainer_state.pt but the clocks."""
    ends = [Run(out).last_state() for out in (one, other)]
    first, second = (load_checkpoint(end[0]).weights for end in ends if end)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    first, second = (end[1] for end in ends if end)
    assert without_times(first.pop("history")) == without_times(second.pop("history"))
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("plain", 1),
        ("average", 6),
        ("drawing", 3),
        pytest.param("plain", 6, marks=pytest.mark.full),
        pytest.param("average", 3, marks=pytest.mark.full),
        pytest.param("drawing", 5, marks=pytest.mark.full),
    ],
)
def test_a_run_that_was_stopped_at_a_step_ends_as_one_that_was_not(
    name: str, step: int, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_config(prepared, tmp_path / "whole", every_steps=None, **RUNS[name])
    whole = drawing_model(whole) if name == "drawing" else whole
    stopped = replace(
        whole, out=str(tmp_path / "stopped"), checkpoint=CheckpointConfig(every_steps=1)
    )
    history = train(whole, Worker())
    with monkeypatch.context() as patch:
        stop_at(step, interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, Worker())
    found = Run(stopped.out).last_uri()
    assert found is not None
    wanted = Run(stopped.out).step_uri(1 + step // 4, step % 4)
    assert found == wanted
    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", noting(steps, loop.take_step))
        torch.rand(7)  # whatever happened to torch's random state in between
        resumed = train(stopped, Worker())
    assert steps == list(range(step, 8))
    assert without_times(resumed) == without_times(history)
    assert_same_end(whole.out, stopped.out)


def noting(steps: list[int], take: Callable[..., Any]) -> Callable[..., Any]:
    def instead(*args: Any, num_steps: int, **options: Any) -> Any:
        steps.append(num_steps)
        return take(*args, num_steps=num_steps, **options)

    return instead


def test_a_long_validation_that_is_cut_off_costs_no_step(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_config(prepared, tmp_path / "whole", every_steps=None)
    stopped = replace(whole, out=str(tmp_path / "stopped"))
    history = train(whole, Worker())
    monkeypatch.setattr(loop, "_LONG_VALIDATION_S", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", lambda *_, **__: interrupt())
        with pytest.raises(KeyboardInterrupt):
            train(stopped, Worker())
    assert Run(stopped.out).last_uri() == Run(stopped.out).step_uri(1, 4)
    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", noting(steps, loop.take_step))
        resumed = train(stopped, Worker())
    assert steps == list(range(4, 8))
    assert without_times(resumed) == without_times(history)
    assert_same_end(whole.out, stopped.out)


def test_a_teacher_goes_on_from_the_step_too(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = avsc_model(run_config(prepared, tmp_path / "whole", epochs=1))
    stopped = replace(whole, out=str(tmp_path / "stopped"))
    history = train(whole, Worker())
    with monkeypatch.context() as patch:
        stop_at(2, interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, Worker())
    assert without_times(train(stopped, Worker())) == without_times(history)
    assert_same_end(whole.out, stopped.out)


def test_stochastic_layers_draw_anew_in_every_step_lane_and_part(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(prepared, tmp_path, every_steps=None, batch_size=1, accumulate_steps=2)
    drawn: list[float] = []
    seed = torch.manual_seed

    def note(value: int) -> Any:
        generator = seed(value)
        drawn.append(float(torch.rand(1)))
        return generator

    state = TrainingState(config, Worker(num_lanes=2))
    assert state.parts == [(0, 0), (0, 1), (1, 0), (1, 1)]
    monkeypatch.setattr(torch, "manual_seed", note)
    train(config, Worker(num_lanes=2))
    draws = drawn[1:]  # the first is of the weights
    assert len(draws) == len(set(draws)) == 2 * 2 * 4


def test_a_process_that_is_killed_at_a_step_loses_no_step_that_was_saved(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_config(prepared, tmp_path / "whole", every_steps=2)
    killed = replace(whole, out=str(tmp_path / "killed"))
    history = train(whole, Worker())
    for step in (3, 5):  # inside the first epoch, then inside the second one
        with monkeypatch.context() as patch:
            stop_at(step, lambda: os.kill(os.getpid(), signal.SIGKILL), patch)
            child = multiprocessing.get_context("fork").Process(
                target=train, args=(killed, Worker())
            )
            child.start()
            child.join(timeout=120)
        assert child.exitcode == -signal.SIGKILL
    resumed = train(killed, Worker())
    assert without_times(resumed) == without_times(history)
    assert_same_end(whole.out, killed.out)


def test_a_checkpoint_inside_an_epoch_says_so_and_predicts(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(prepared, tmp_path / "run", every_steps=3)
    stop_at(6, interrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, Worker())
    last = Run(config.out).last_uri()
    assert last == Run(config.out).step_uri(2, 2)
    found = load_checkpoint(last)
    assert found.metrics == {"epoch": 2, "step": 2, "num_lanes": 1, "val_j": None, "val_f": None}
    card = Path(last, "model_card.md").read_text()
    assert "| epochs | 1 of 2 and 2 steps, seed 5 |" in card
    assert "| validation | not done at this step" in card
    names = {i.path.split("/")[0] for i in storage.list_files(f"{config.out}/checkpoints")}
    assert names == {"epoch-0001", "epoch-0002-step-000002"}
    assert load_checkpoint(config.out).metrics["epoch"] == 1  # the best one was validated


def test_steps_are_counted_over_the_run_and_the_end_of_an_epoch_is_one_checkpoint(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[str] = []
    commit = Run.commit

    def note(self: Run, history: Any, *, uri: str, keep_best: int) -> None:
        commits.append(uri.rpartition("/")[2])
        commit(self, history, uri=uri, keep_best=keep_best)

    monkeypatch.setattr(Run, "commit", note)
    train(run_config(prepared, tmp_path / "a", every_steps=3), Worker())
    assert commits == ["epoch-0001-step-000003", "epoch-0001", "epoch-0002-step-000002",
                       "epoch-0002"]  # fmt: skip
    commits.clear()
    train(run_config(prepared, tmp_path / "b", every_steps=4), Worker())
    assert commits == ["epoch-0001", "epoch-0002"]


def test_another_number_of_workers_inside_an_epoch_is_refused_with_the_way_out(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(prepared, tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(2, interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config, Worker())
    with pytest.raises(ConfigError, match=r"for 1 workers, .* is 2 now: give .*num_workers=1"):
        train(config, Worker(num_lanes=2))


@pytest.mark.parametrize(("step", "goes_on"), [(2, False), (4, True)])
def test_data_that_was_prepared_anew_is_refused_inside_an_epoch_and_told_between_two(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, goes_on: bool
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    config = run_config(data, tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(step, interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config, Worker())
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (data / "manifest.json").write_text(json.dumps(manifest))
    if goes_on:
        assert len(train(config, Worker())) == 2
        assert f"{data} was prepared anew" in str(Run(config.out).read_progress())
    else:
        with pytest.raises(ConfigError, match=rf"inside epoch 1, and {data} was prepared anew"):
            train(config, Worker())


@pytest.mark.parametrize("key", ["every_steps", "keep_best"])
def test_a_number_of_checkpoints_that_cannot_be_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"checkpoint\.{key}=0"):
        CheckpointConfig(**{key: 0})


def test_the_trainer_state_of_a_step_holds_no_objects(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(prepared, tmp_path / "run")
    stop_at(1, interrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, Worker())
    state = load_trainer_state(Run(config.out).step_uri(1, 1))  # weights_only
    position = state["position"]
    assert position["num_lanes"] == 1
    assert position["tally"]["step"] == 1
    assert len(position["tally"]["per_rank"][0]) == len(position["tally"]["names"])
    statistics = position.pop("statistics")
    assert all(value.shape[0] == 1 for value in statistics.values())
    json.dumps(position)
