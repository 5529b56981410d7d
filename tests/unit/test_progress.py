"""Progress lines: few, and the last one always."""

from __future__ import annotations

import io
import os

import pytest

from avs.progress import Progress, StatusLine, duration_text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that Progress reads, in seconds."""
    now_s = [100.0]
    monkeypatch.setattr("avs.progress.time.monotonic", lambda: now_s[0])
    return now_s


def test_a_line_every_two_seconds_and_one_at_the_end(clock: list[float]) -> None:
    said: list[str] = []
    progress = Progress("prepare", total=10, unit="clips", say=said.append)
    clock[0] += 60  # workers start, which says nothing of what is left
    for _ in range(10):
        progress.add(1)
        clock[0] += 0.5
    assert said == [
        "prepare: 1/10 clips",
        "prepare: 5/10 clips, 2.0/s, about 2 s left",
        "prepare: 9/10 clips, 2.0/s, about 0 s left",
        "prepare: 10/10 clips, 2.0/s",
    ]
    assert progress.done == 10


def test_a_note_ends_the_line(clock: list[float]) -> None:
    said: list[str] = []
    progress = Progress("segment", total=2, unit="videos", say=said.append)
    progress.add(2, "1 rejected")
    assert said == ["segment: 2/2 videos, 1 rejected"]


@pytest.mark.usefixtures("clock")
def test_no_time_passed_is_no_error() -> None:
    Progress("x", total=1, unit="clips", say=lambda _: None).add(1)


def test_lines_are_printed_where_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    Progress("x", total=1, unit="clips").add(1)
    assert capsys.readouterr().out.startswith("x: 1/1 clips")


class _Terminal:
    """What a terminal would show of the writes to it: its lines, the last one being written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def say(self, line: str) -> None:
        self.stream.write(line + "\n")

    @property
    def lines(self) -> list[str]:
        shown = []
        for line in self.stream.getvalue().split("\n"):
            cells: list[str] = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            shown.append("".join(cells).rstrip())
        return shown


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """One of 60 columns."""
    size = os.terminal_size((60, 20))
    monkeypatch.setattr("avs.progress.shutil.get_terminal_size", lambda: size)
    return _Terminal()


def test_a_terminal_shows_one_line_that_changes(terminal: _Terminal) -> None:
    status = StatusLine("train", say=terminal.say, terminal=terminal.stream)
    status.show("step 10/10 of a long line", share=0.25)
    status.show("step 2/10", share=0.5)
    assert terminal.lines == ["train:  50 % |##########----------| step 2/10"]
    status.say("epoch 1 done")
    assert terminal.lines[0] == "train: epoch 1 done"
    assert terminal.lines[1] == "train:  50 % |##########----------| step 2/10"
    status.close()
    assert terminal.lines == ["train: epoch 1 done", ""]


def test_a_line_never_wraps(terminal: _Terminal) -> None:
    StatusLine("train", say=terminal.say, terminal=terminal.stream).show("x" * 99, share=2.0)
    assert len(terminal.lines[0]) == 59
    assert "100 % |####################| xxx" in terminal.lines[0]


def test_a_log_gets_a_line_now_and_then_and_every_one_that_stays(clock: list[float]) -> None:
    said: list[str] = []
    status = StatusLine("train", say=said.append, every_s=10)
    for step in range(1, 7):
        status.show(f"step {step}", share=0.1)
        if step == 3:
            status.say("epoch 1 done")
        clock[0] += 4
    status.close()
    assert said == ["train: step 1", "train: epoch 1 done", "train: step 4"]


@pytest.mark.usefixtures("clock")
def test_only_what_is_printed_to_a_terminal_gets_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    StatusLine("train").show("to a file", share=0.5)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    said: list[str] = []
    StatusLine("train", say=said.append).show("to a listener", share=0.5)
    StatusLine("train").show("to a terminal", share=0.5)
    assert said == ["train: to a listener"]
    assert capsys.readouterr().out == (
        "train: to a file\n\rtrain:  50 % |##########----------| to a terminal"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (3599, "1 h 0 min"),
        (11105, "3 h 5 min"),
        (86399, "1 d 0 h"),
        (187200, "2 d 4 h"),
    ],
)
def test_a_time_is_told_in_at_most_two_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
