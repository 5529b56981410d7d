"""What a run tells its observers and whoever follows its folder, and when."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from small_configs import train_config

from avs import patience
from avs.errors import ConfigError
from avs.storage_remote import StorageError
from avs.training.config import LoggingConfig, TrainConfig
from avs.training.loop import train
from avs.training.observers import Observer, SeenEpoch, SeenStart, SeenSteps
from avs.training.over_ranks import max_over_ranks, mean_over_ranks
from avs.training.run import Run
from avs.training.state import TrainingState, Worker
from avs.training.watch import Watch


@dataclass
class _Witness(Observer):
    """Writes down what it is told; ``out`` is the run."""

    out: Path
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    points: list[SeenSteps] = field(default_factory=list)

    def on_start(self, seen: SeenStart) -> None:
        self.calls.append(("start", seen.step, len(seen.state.history)))
        assert seen.out == str(self.out)

    def on_steps(self, seen: SeenSteps) -> None:
        self.calls.append(("steps", seen.step, seen.epoch))
        self.points.append(seen)

    def on_epoch(self, seen: SeenEpoch) -> None:
        self.calls.append(("epoch", seen.step, seen.metrics["epoch"]))
        assert seen.state.history[-1] is seen.metrics

    def on_save(self, step: int) -> None:
        self.calls.append(("save", step, len(Run(str(self.out)).read_metrics())))

    def on_end(self) -> None:
        self.calls.append(("end", len(Run(str(self.out)).read_metrics())))


def _config(prepared: Path, out: Path, *, every: int = 2, **changes: Any) -> TrainConfig:
    config = train_config(prepared, out, **changes)
    return replace(config, logging=LoggingConfig(every_steps=every))


def test_an_observer_is_told_everything_in_order_and_before_a_checkpoint_counts(
    prepared: Path, tmp_path: Path
) -> None:
    witness = _Witness(tmp_path / "run")
    config = _config(prepared, tmp_path / "run", max_gradient_norm=0.1)
    history = train(config, Worker(observers=[witness]))
    assert witness.calls == [
        ("start", 0, 0),
        *(("steps", step, 1) for step in (1, 2, 4)),
        ("epoch", 4, 1),
        ("save", 4, 0),
        *(("steps", step, 2) for step in (5, 6, 8)),
        ("epoch", 8, 2),
        ("save", 8, 1),
        ("end", 2),
    ]
    for metrics, points in zip(history, (witness.points[:3], witness.points[3:]), strict=True):
        losses = [point.scalars["train/loss"] for point in points]
        mean = sum(n * loss for n, loss in zip((1, 1, 2), losses, strict=True)) / 4
        assert mean == pytest.approx(metrics["loss"], rel=1e-6)
        assert points[-1].scalars["train/learning_rate"] == metrics["learning_rate"]
        assert points[-1].scalars["train/loss_bce"] > 0
    assert all(point.scalars["train/gradient_norm"] > 0 for point in witness.points)
    assert all(point.scalars["train/clips_per_s"] > 0 for point in witness.points[1:3])


def test_a_run_that_goes_on_starts_at_its_step(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(_config(prepared, out, epochs=1), Worker())
    witness = _Witness(out)
    train(_config(prepared, out), Worker(observers=[witness]))
    assert witness.calls[:2] == [("start", 4, 1), ("steps", 5, 2)]
    assert "gradient_norm" not in str(witness.points[0].scalars)  # nothing was clipped


def test_a_checkpoint_inside_an_epoch_leaves_no_step_untold(prepared: Path, tmp_path: Path) -> None:
    config = _config(prepared, tmp_path / "run", every=100)
    witness = _Witness(tmp_path / "run")
    state = TrainingState(config, Worker(observers=[witness]))
    watch = Watch(state, Run(config.out), clips_per_step=2)
    for step, loss in enumerate((4.0, 2.0, 3.0)):
        watch.add_step({"loss": loss}, epoch=1, step=step, lr=0.1, waited_s=0.0)
    watch.before_save()
    watch.before_save()
    assert [(point.step, point.scalars["train/loss"]) for point in witness.points] == [
        (1, 4.0),
        (3, 2.5),
    ]


class _Broken(Observer):
    def __init__(self, error: Exception) -> None:
        self._error = error

    def on_steps(self, seen: SeenSteps) -> None:  # noqa: ARG002 (of the interface)
        raise self._error


def test_an_observer_that_fails_ends_nothing_and_is_told_of_once(
    prepared: Path, tmp_path: Path
) -> None:
    config = _config(prepared, tmp_path / "run")
    assert len(train(config, Worker(observers=[_Broken(RuntimeError("no room"))]))) == 2
    left = Run(config.out).read_progress()
    assert left is not None
    told = [message["text"] for message in left["told"]]
    assert told == ["warning: _Broken.on_steps: no room; the training goes on"]


def test_storage_that_is_away_when_an_epoch_ends_ends_nothing(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(prepared, tmp_path / "run")
    witness, left = _Witness(tmp_path / "run"), [StorageError("the bucket failed 5 times")] * 3

    def away(*_: object) -> None:
        if left:
            raise left.pop()

    read = Run.read_metrics
    monkeypatch.setattr(patience, "PAUSE_S", 0.01)
    monkeypatch.setattr(Run, "read_metrics", lambda self: away() or read(self))
    assert len(train(config, Worker(observers=[witness], check_lease=away))) == 2
    assert [call[2] for call in witness.calls if call[0] == "epoch"] == [2]
    told = Run(config.out).read_progress()
    assert told is not None
    assert "_Witness.on_epoch: the bucket failed 5 times" in told["told"][0]["text"]


def test_steps_are_counted_on_where_epochs_had_another_number_of_them(
    prepared: Path, tmp_path: Path
) -> None:
    witness = _Witness(tmp_path / "run")
    first = _config(prepared, tmp_path / "run", epochs=1)
    (ended,) = train(first, Worker())
    second = replace(first, train=replace(first.train, epochs=2))
    train(second, Worker(observers=[witness], num_lanes=2))  # half as many steps
    assert ended["steps"] == 4
    assert [call[:2] for call in witness.calls if call[0] in ("start", "epoch")] == [
        ("start", 4),
        ("epoch", 6),
    ]


def test_a_mistake_in_the_configuration_ends_it(prepared: Path, tmp_path: Path) -> None:
    config = _config(prepared, tmp_path / "run")
    with pytest.raises(ConfigError, match="no such server"):
        train(config, Worker(observers=[_Broken(ConfigError("no such server"))]))


def test_the_line_tells_where_the_run_is(prepared: Path, tmp_path: Path) -> None:
    config = _config(prepared, tmp_path / "run", epochs=2)
    history = train(config, Worker())
    left = Run(config.out).read_progress()
    assert left is not None
    assert left["line"].startswith(
        f"epoch 2/2 step 4/4, loss {history[1]['loss']:.4f}, J {history[0]['val_j']:.3f}, "
    )
    assert "clips/s, stall" in left["line"]
    assert left["line"].endswith(" s left")
    assert (left["epoch"], left["share"]) == (2, 1.0)


def _on_rank(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    device = Worker().device
    assert mean_over_ranks([1.0 + rank, 5.0], device) == [1.5, 5.0]
    assert max_over_ranks([7.0 - rank, rank], device) == [7.0, 1.0]
    dist.destroy_process_group()


def test_numbers_are_those_of_all_ranks(tmp_path: Path) -> None:
    assert mean_over_ranks([1.0, 2.0], Worker().device) == [1.0, 2.0]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_on_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
        assert process.exitcode == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"every_steps": 0}, "every_steps=0"),
        ({"num_pictures": -1}, "num_pictures=-1"),
        ({"report_clips": -1}, "report_clips=-1"),
        ({"mlflow": ""}, "mlflow is empty"),
        ({"mlflow": "https://me:secret@there"}, r"mlflow=https://\S*there has credentials"),
    ],
)
def test_what_cannot_be_logged_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        LoggingConfig(**changes)
    assert "secret" not in str(caught.value)
