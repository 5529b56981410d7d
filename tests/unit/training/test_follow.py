"""What the driver shows of a run: everything in the order in which it happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avs import storage
from avs.training.follow import Follower, epoch_line
from avs.training.run import Run


def _metrics(epoch: int, **changes: Any) -> dict[str, Any]:
    values = {"epoch": epoch, "loss": 0.5, "val_j": 0.25, "val_f": 0.5, "stall": 0.015}
    return values | {"clips_per_s": 12.34, "seconds": 56.7} | changes


class _Seen:
    """A run, and a follower without its thread."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.lines = Run(str(out)), list[str]()
        self.now_s = 0.0
        monkeypatch.setattr("avs.progress.time.monotonic", self._monotonic)
        self.follower = Follower(self.run, say=self.lines.append)

    def _monotonic(self) -> float:
        self.now_s += 60  # so that every line of progress is shown
        return self.now_s

    def progress(self, epoch: int, step: int) -> None:
        line = f"epoch {epoch} step {step}"
        self.run.report_progress(line, every_s=0, epoch=epoch, share=0.0)

    def epochs(self, count: int) -> None:
        self.run.repair([_metrics(epoch) for epoch in range(1, count + 1)])


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Seen:
    return _Seen(tmp_path, monkeypatch)


def test_an_epoch_comes_after_its_progress_and_before_the_next_one_s(seen: _Seen) -> None:
    seen.progress(1, 3)
    seen.follower.look()
    seen.progress(1, 4)
    seen.epochs(1)
    seen.follower.look()
    seen.epochs(2)
    seen.progress(3, 1)
    seen.follower.look()
    told = [line.partition(",")[0] for line in seen.lines]
    assert told == [
        "train: epoch 1 step 3",
        "train: epoch 1 step 4",
        "train: epoch 1 done",
        "train: epoch 2 done",
        "train: epoch 3 step 1",
    ]


def test_progress_of_an_epoch_that_was_told_is_left_out(
    seen: _Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Run.read_progress
    with monkeypatch.context() as patch:  # the epoch ends between the two readings

        def read(run: Run) -> dict[str, Any] | None:
            found = old(run)
            seen.progress(1, 4)
            seen.epochs(1)
            return found

        seen.progress(1, 3)
        patch.setattr(Run, "read_progress", read)
        seen.follower.look()
    seen.follower.look()
    assert [line.partition(",")[0] for line in seen.lines] == [
        "train: epoch 1 step 3",
        "train: epoch 1 done",
    ]


def test_what_an_earlier_start_left_is_not_shown(seen: _Seen, tmp_path: Path) -> None:
    seen.run.report_progress("starting from there", every_s=0)
    seen.progress(2, 3)
    seen.epochs(1)
    lines: list[str] = []
    with Follower(Run(str(tmp_path)), num_seen=1, say=lines.append):
        pass
    assert lines == []


def test_a_message_is_told_once_even_if_progress_follows_at_once(seen: _Seen) -> None:
    seen.run.report_progress("starting from there", every_s=0)
    seen.progress(1, 1)
    seen.follower.look()
    seen.progress(1, 2)
    seen.follower.look()
    again = Run(seen.run.out)  # the worker was replaced
    again.report_progress("warning: slow", every_s=0)
    seen.follower.look()
    assert seen.lines == [
        "train: starting from there",
        "train: epoch 1 step 1",
        "train: epoch 1 step 2",
        "train: warning: slow",
    ]


def test_a_message_stands_behind_the_epochs_that_were_done_by_then(seen: _Seen) -> None:
    seen.run.report_progress("warning: slow", every_s=0)
    seen.epochs(1)
    Run(seen.run.out).report_progress("scoring", every_s=0)
    again = Follower(Run(seen.run.out), say=seen.lines.append)
    again.look()
    seen.follower.look()
    told = [line.partition(",")[0] for line in seen.lines]
    assert told == ["train: epoch 1 done", "train: scoring"] * 2
    seen.lines.clear()
    seen.run.report_progress("warning: late", every_s=0)
    seen.epochs(2)
    seen.follower.look()
    told = [line.partition(",")[0] for line in seen.lines]
    assert told == ["train: warning: slow", "train: warning: late", "train: epoch 2 done"]


def test_a_folder_of_before_messages_existed_is_followed(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / "progress.json"), {"line": "epoch 1/2 step 3/4"})
    lines: list[str] = []
    with Follower(Run(str(tmp_path)), say=lines.append):
        pass
    assert lines == []


def test_the_line_of_an_epoch() -> None:
    assert epoch_line(_metrics(2)) == (
        "epoch 2 done, loss 0.5000, val J 0.250 F 0.500, 12.3 clips/s, stall 2 %, 56.7 s"
    )
    assert "no validation split" in epoch_line(_metrics(2, val_j=None, val_f=None))
