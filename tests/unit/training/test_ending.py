"""What a driver that is told to end does first, and how its ranks hear of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from avs import storage
from avs.training import ending
from avs.training.ending import DriverNotice, until_told
from avs.training.run import Run

OWNER = "me-1"
PAUSE = threading.Event()  # never set


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_LOOK_S", 0.02)


def _told_while(
    number: int, training: Callable[[threading.Event], None], run: Run, say: Callable[[str], None]
) -> None:
    """Signal this process once ``training`` set its event."""
    inside = threading.Event()

    def call() -> None:
        training(inside)

    def tell() -> None:
        inside.wait(60)
        os.kill(os.getpid(), number)

    threading.Thread(target=tell, daemon=True).start()
    until_told(call, run, owner=OWNER, num_epochs=2, say=say)


def _step_until_it_hears(run: Run, inside: threading.Event) -> None:
    """What rank 0 does until the driver's note reaches it."""
    heard = DriverNotice(run.out, OWNER)
    run.report_progress("a step", epoch=1, share=0.1)
    inside.set()
    while not heard():
        PAUSE.wait(0.01)


@pytest.mark.parametrize(
    ("number", "ends_with"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_step_is_saved_before_the_driver_ends(
    number: int, ends_with: type[BaseException], tmp_path: Path
) -> None:
    run, lines = Run(str(tmp_path)), list[str]()
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def training(inside: threading.Event) -> None:
        _step_until_it_hears(run, inside)
        os.kill(os.getpid(), number)  # at once, as `timeout` does: the same signal
        uri = run.step_uri(1, 7)
        storage.write_json(storage.join(uri, "metrics.json"), {"epoch": 1, "step": 7})
        run.commit([], uri=uri)
        PAUSE.wait(60)

    with pytest.raises(ends_with) as ended:
        _told_while(number, training, run, lines.append)
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == 143
    assert lines == [
        "train: told to end; saving a step first (told again: ends at once)",
        "train: saved step 7 of epoch 1; the same command goes on from there",
    ]
    assert not (tmp_path / "_ending.json").exists()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_told_again_later_it_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_TWICE_S", 0.0)
    run, lines = Run(str(tmp_path)), list[str]()

    def training(inside: threading.Event) -> None:
        _step_until_it_hears(run, inside)
        os.kill(os.getpid(), signal.SIGINT)
        PAUSE.wait(60)

    with pytest.raises(KeyboardInterrupt):
        _told_while(signal.SIGINT, training, run, lines.append)
    assert lines[1:] == ["train: told again; ending without the step"]


def test_what_has_all_its_epochs_waits_for_no_step(tmp_path: Path) -> None:
    run, lines = Run(str(tmp_path)), list[str]()

    def reporting(inside: threading.Event) -> None:
        run.repair([{"epoch": k, "val_j": 0.5, "val_f": 0.5} for k in (1, 2)])
        run.report_progress("writing the report", epoch=2, share=1.0)
        inside.set()
        PAUSE.wait(60)

    with pytest.raises(SystemExit):
        _told_while(signal.SIGTERM, reporting, run, lines.append)
    assert lines == []


def test_what_ends_by_itself_gives_its_result_or_its_error(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    assert until_told(lambda: 7, run, owner=OWNER, num_epochs=2, say=print) == 7
    with pytest.raises(ZeroDivisionError):
        until_told(lambda: 1 // 0, run, owner=OWNER, num_epochs=2, say=print)


def test_before_the_first_step_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    lines: list[str] = []

    def starting(inside: threading.Event) -> None:
        inside.set()
        PAUSE.wait(60)

    with pytest.raises(SystemExit):
        _told_while(signal.SIGTERM, starting, Run(str(tmp_path)), lines.append)
    assert lines == ["train: told to end before the first step"]


def test_a_note_of_an_earlier_driver_means_nothing(tmp_path: Path) -> None:
    note = str(tmp_path / "_ending.json")
    storage.write_json(note, "somebody-2")
    heard = DriverNotice(str(tmp_path), OWNER)
    PAUSE.wait(0.2)
    assert not heard()
    storage.write_json(note, OWNER)
    told = [heard()]
    while not any(told):
        PAUSE.wait(0.01)
        told.append(heard())
    assert not heard()
