"""The dry run: the plan and an estimate, and not a byte written."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepare_runs import MadeUpSet, run

from avs.errors import DataError, MediaError
from avs.prepare import dry_run
from avs.prepare.config import PrepareConfig
from avs.prepare.dry_run import show_plan
from avs.schema import Source


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> MadeUpSet:
    clips = MadeUpSet(monkeypatch)
    monkeypatch.setattr(dry_run, "prepare_clip", lambda s, c: list(clips.prepare_rows(s, c, [])))
    return clips


def _lines(config: PrepareConfig, num_cores: int = 2) -> list[str]:
    lines: list[str] = []
    show_plan(config, num_cores=num_cores, say=lines.append)
    return lines


def test_it_tells_clips_bytes_and_shards_of_each_split(clips: MadeUpSet, tmp_path: Path) -> None:
    clips.change(2, problem="not there")
    lines = _lines(clips.config(tmp_path / "out"))
    assert lines[1:-1] == [
        "  test: 1 clips, 0.0 MB of media, 1 shards",
        "  train: 5 clips, 0.1 MB of media, 3 shards",
        "  val: 3 clips, 0.0 MB of media, 2 shards",
        "  in all: 9 clips, 0.1 MB of media, 6 shards",
        "  1 clips are rejects already: the listing says so",
        "    1 x not there",
    ]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_as_it_is(clips: MadeUpSet, tmp_path: Path) -> None:
    run(clips.config(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    clips.decoded.clear()
    lines = _lines(clips.config(tmp_path))
    assert lines[-1] == "  6 shards are there already, left: 0 clips, 0.0 MB of media, 0 shards"
    assert clips.decoded == []
    (tmp_path / "shards" / "val-00000.parquet").unlink()
    before.pop(tmp_path / "shards" / "val-00000.parquet")
    assert "left: 2 clips" in _lines(clips.config(tmp_path))[-2]
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.name != "shards"}
    assert after == {p: t for p, t in before.items() if p.name != "shards"}


def test_the_estimate_grows_with_the_bytes_and_falls_with_the_cores(
    clips: MadeUpSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each decoded clip takes 3 s of a made-up clock; the long films are not decoded for it."""
    now_s = [0.0]
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: now_s[0])

    def tick() -> None:
        now_s[0] += 3.0

    clips.at_decode = tick
    assert "about 14 s on 2 cores" in _lines(clips.config(tmp_path / "out"))[-1]
    assert "about 27 s on 1 cores" in _lines(clips.config(tmp_path / "out"), num_cores=1)[-1]
    clips.decoded.clear()
    films = {clips.sources[index].clip_id for index in range(4)}
    for index in range(4):
        clips.change(index, source=Source(uri="film", size_bytes=800_000, version=str(index)))
    # 5 x 10 kB and 4 x 800 kB, at 3 s for each 10 kB
    assert "about 975 s on 1 cores" in _lines(clips.config(tmp_path / "out"), num_cores=1)[-1]
    assert len(clips.decoded) == 4
    assert not films & set(clips.decoded)


def test_a_probe_that_fails_gives_no_estimate(clips: MadeUpSet, tmp_path: Path) -> None:
    clips.failing = {source.clip_id for source in clips.sources}
    assert "no estimate" in _lines(clips.config(tmp_path / "out"))[-1]


def test_it_refuses_what_the_run_would_refuse(clips: MadeUpSet, tmp_path: Path) -> None:
    run(clips.config(tmp_path))
    config = clips.config(tmp_path)
    config.data.with_waveform = False
    with pytest.raises(DataError, match="another configuration"):
        _lines(config)
    for index in (0, 8):
        clips.change(index, video_id="kitchen")
    with pytest.raises(DataError, match="the splits leak"):
        _lines(clips.config(tmp_path))
    told = _lines(clips.config(tmp_path / "new", allow_leaks=True))
    assert any("warning: source videos in several splits: 1" in line for line in told)


def test_a_bug_in_the_probe_is_not_hidden(
    clips: MadeUpSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    assert not issubclass(ZeroDivisionError, MediaError)
    monkeypatch.setattr(dry_run, "prepare_clip", bug)
    with pytest.raises(ZeroDivisionError):
        _lines(clips.config(tmp_path / "out"))
