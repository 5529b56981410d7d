"""Stage segment: what it measures, and that its bare loop gives the masks of the Predictor."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_clips import write_video
from stage_config import segment_stage_config

from avs.benchmark import segment
from avs.benchmark.bare_segment import bare_segment
from avs.benchmark.process import Usage
from avs.benchmark.segment import benchmark_segment
from avs.errors import AvsError, ConfigError
from avs.inference.outputs import OutputKind
from avs.inference.predictor import Predictor


def test_the_bare_loop_gives_the_masks_of_the_predictor(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    video = tmp_path / "v.mp4"
    write_video(video, duration_s=7, size_px=(48, 80))
    bare_segment(str(tiny_checkpoint), [video], tmp_path / "out", outputs=[OutputKind.RLE_JSON])
    written = json.loads((tmp_path / "out" / "v.mp4" / "masks.json").read_text())
    expected = Predictor.from_checkpoint(str(tiny_checkpoint)).segment_video(str(video))
    assert written["masks"] == json.loads(json.dumps(expected.to_json()["masks"]))


def _measuring(monkeypatch: pytest.MonkeyPatch, *, lost: int = 0) -> list[list[str]]:
    """Replace the runs: 2 s and, of the job, 0.5 s or of the loop 0.25 s a video."""
    commands: list[list[str]] = []

    def run(command: Sequence[str]) -> Usage:
        commands.append(list(command))
        is_job = command[1].endswith("segment.py")
        given = dict(part.split("=", 1) for part in command if "=" in part)
        source = Path(given["input"].strip("'") if is_job else command[4])
        target = Path(given["out"].strip("'") if is_job else command[5])
        videos = sorted(source.iterdir())
        for video in videos[lost:]:
            (target / video.name).mkdir(parents=True)
            (target / video.name / "masks.json").touch()
        seconds = 2 + len(videos) * (0.5 if is_job else 0.25)
        return Usage(started_s=0.0, seconds=seconds, peak_bytes=10**8)

    def checkpoint(model: str, folder: Path, *, num_threads: int) -> str:
        return f"{folder}/{model}-{num_threads}"

    def videos(folder: Path) -> list[Path]:
        folder.mkdir(parents=True)
        (folder / "a.mp4").touch()
        return [folder / "a.mp4"]

    monkeypatch.setattr(segment, "run_measured", run)
    monkeypatch.setattr(segment, "random_checkpoint", checkpoint)
    monkeypatch.setattr(segment, "synthetic_videos", videos)
    return commands


def test_the_rate_is_that_of_the_videos_which_the_larger_run_has_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = _measuring(monkeypatch)
    text = benchmark_segment(
        segment_stage_config(tmp_path, num_clips=10), jobs=Path("jobs"), say=lambda _: None
    )
    result: dict[str, Any] = json.loads((tmp_path / "benchmark.json").read_text())
    summary = result["summary"]
    assert summary["tiny bare"]["clips_per_s"]["median"] == pytest.approx(4.0)
    assert summary["tiny avs"]["clips_per_s"]["median"] == pytest.approx(2.0)
    assert summary["tiny avs"]["total_s"]["median"] == pytest.approx(7.0)
    assert "x 0.50" in text
    assert result["settings"]["num_clips"] == [2, 10]
    assert commands[0][:3] == [sys.executable, "-m", "avs.benchmark.bare_segment"]


def test_a_run_that_loses_a_video_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _measuring(monkeypatch, lost=1)
    with pytest.raises(AvsError, match=r"masks\.json of 1 of 2 videos"):
        benchmark_segment(segment_stage_config(tmp_path, num_clips=10), jobs=Path("jobs"))


def test_what_cannot_be_measured_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"segment\.models=\[\]"):
        segment_stage_config(tmp_path, models=[])
    with pytest.raises(ConfigError, match=r"segment\.num_threads=0"):
        segment_stage_config(tmp_path, num_threads=0)
    unknown = segment_stage_config(tmp_path)
    unknown.contenders = ["published"]
    with pytest.raises(ConfigError, match="Known: avs, bare"):
        benchmark_segment(unknown, jobs=Path("jobs"))
