"""The throughput table: what was measured, in milliseconds, clips a second and percent of bare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prepare_runs import MadeUpSet, run

from avs.prepare import run as run_module
from avs.prepare.records import ShardTiming
from avs.prepare.throughput import RunTiming, throughput_table

SHARDS = [
    ShardTiming(num_sources=30, decode_s=0.75, clips_s=1.2, checks_s=0.03, write_s=0.27),
    ShardTiming(num_sources=10, decode_s=0.25, clips_s=0.4, checks_s=0.01, write_s=0.09),
]
RUN = RunTiming(shards=SHARDS, wall_s=1.25, num_cores=2)


def _row(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if line.strip().startswith(name)]
    return line[34:].split()


def test_each_stage_is_told_for_a_clip_and_the_whole_in_percent_of_the_decoder() -> None:
    """40 clips of 25 ms in the decoder and 15 ms of log-mel and masks."""
    lines = throughput_table(RUN)
    assert lines[0].split() == ["stage", "ms/clip", "clips/s,", "2", "cores", "%", "of", "decoder"]
    assert _row(lines, "decoder") == ["25.0", "80.0", "100"]
    assert _row(lines, "log-mel, masks") == ["15.0"]
    assert _row(lines, "hash, statistics") == ["1.0"]
    assert _row(lines, "write") == ["9.0"]
    assert _row(lines, "all stages") == ["50.0", "40.0", "50"]
    assert _row(lines, "the run") == ["62.5", "32.0", "40"]


def test_clips_of_pictures_have_no_decoder_to_compare_with() -> None:
    run = replace(RUN, shards=[replace(shard, decode_s=0.0) for shard in SHARDS])
    lines = throughput_table(run)
    assert not any(line.startswith("decoder") for line in lines)
    assert _row(lines, "the run") == ["62.5", "32.0", "-"]


def test_a_run_shows_the_table_when_it_decoded_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    lines: list[str] = []
    run(clips.config(tmp_path / "few"), say=lines.append)
    assert not any("ms/clip" in line for line in lines)
    monkeypatch.setattr(run_module, "_TABLE_FROM_CLIPS", 9)
    run(clips.config(tmp_path / "enough"), say=lines.append)
    assert any("ms/clip" in line for line in lines)
    lines.clear()
    run(clips.config(tmp_path / "enough"), say=lines.append)
    assert not any("ms/clip" in line for line in lines)
