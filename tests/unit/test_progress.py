"""Progress lines: few, and the last one always."""

from __future__ import annotations

import pytest

from avs.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that Progress reads, in seconds."""
    now_s = [100.0]
    monkeypatch.setattr("avs.progress.time.monotonic", lambda: now_s[0])
    return now_s


def test_a_line_every_two_seconds_and_one_at_the_end(clock: list[float]) -> None:
    said: list[str] = []
    progress = Progress("prepare", total=10, unit="clips", say=said.append)
    for _ in range(10):
        clock[0] += 0.5
        progress.add(1)
    assert said == [
        "prepare: 4/10 clips, 2.0/s, about 3 s left",
        "prepare: 8/10 clips, 2.0/s, about 1 s left",
        "prepare: 10/10 clips, 2.0/s",
    ]
    assert progress.done == 10


def test_a_note_ends_the_line(clock: list[float]) -> None:
    said: list[str] = []
    progress = Progress("segment", total=2, unit="videos", say=said.append)
    clock[0] += 1
    progress.add(2, "1 rejected")
    assert said == ["segment: 2/2 videos, 2.0/s, 1 rejected"]


@pytest.mark.usefixtures("clock")
def test_no_time_passed_is_no_error() -> None:
    Progress("x", total=1, unit="clips", say=lambda _: None).add(1)


def test_lines_are_printed_where_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    Progress("x", total=1, unit="clips").add(1)
    assert capsys.readouterr().out.startswith("x: 1/1 clips")
