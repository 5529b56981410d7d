"""The throughput table: what was measured, in milliseconds, clips a second and percent of bare."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_clips import data_config
from prepare_runs import MadeUpSet, made_up_source, run

from avs.datasets import DATASETS
from avs.prepare import run as run_module
from avs.prepare.records import ShardTiming
from avs.prepare.throughput import (
    Probe,
    RunTiming,
    probe_batches,
    probe_clips,
    throughput_table,
)

SHARDS = [
    ShardTiming(num_sources=30, clips_s=1.2, checks_s=0.03, write_s=0.27),
    ShardTiming(num_sources=10, clips_s=0.4, checks_s=0.01, write_s=0.09),
]
RUN = RunTiming(shards=SHARDS, wall_s=1.25, num_cores=2)


def _row(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if line.strip().startswith(name)]
    return line[34:].split()


def test_each_stage_is_told_for_a_clip_and_the_whole_in_percent_of_bare() -> None:
    """40 clips; two probes of 5 clips: 25 ms decoding, 5 ms log-mel, 10 ms the rest."""
    probes = [Probe(num_clips=5, decode_s=0.125, log_mel_s=0.025, clip_s=0.2)] * 2
    lines = throughput_table(RUN, probes)
    assert lines[0].split() == ["stage", "ms/clip", "clips/s,", "2", "cores", "%", "of", "bare"]
    assert _row(lines, "bare decoder (10 clips again)") == ["25.0", "80.0", "100"]
    assert _row(lines, "log-mel") == ["5.0"]
    assert _row(lines, "masks and rest") == ["10.0"]
    assert _row(lines, "decode, log-mel, masks") == ["40.0"]
    assert _row(lines, "hash, statistics") == ["1.0"]
    assert _row(lines, "write") == ["9.0"]
    assert _row(lines, "all stages") == ["50.0", "40.0", "50"]
    assert _row(lines, "the run") == ["62.5", "32.0", "40"]


@pytest.mark.parametrize(
    "probes", [[], [Probe(num_clips=0, decode_s=0.0, log_mel_s=0.0, clip_s=0.0)]]
)
def test_without_a_bare_decoder_there_is_no_percentage(probes: list[Probe]) -> None:
    lines = throughput_table(RUN, probes)
    assert not any("bare decoder" in line for line in lines)
    assert _row(lines, "the run") == ["62.5", "32.0", "-"]


def test_the_probe_gives_every_core_a_few_videos() -> None:
    sources = [made_up_source(k, "train") for k in range(40)]
    batches = probe_batches(sources, 3)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert len({source.clip_id for batch in batches for source in batch}) == 12
    assert [len(batch) for batch in probe_batches(sources[:2], 3)] == [1, 1]
    assert probe_batches([made_up_source(0, "train", video=None)], 3) == []


def test_the_probe_times_real_clips_and_leaves_out_what_fails(s4_root: Path) -> None:
    config = data_config("s4", s4_root)
    good, other, *_ = DATASETS["s4"].list_clips(config)
    gone = made_up_source(0, "train", video=str(s4_root / "gone.mp4"))
    probe = probe_clips([good, gone, other], config)
    assert probe.num_clips == 2
    assert min(probe.decode_s, probe.log_mel_s, probe.clip_s) > 0


def test_a_run_shows_the_table_when_it_decoded_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    clips.failing = {clips.sources[0].clip_id}
    probed: list[str] = []

    def probe(sources: list[object], config: object) -> Probe:
        probed.extend(s.clip_id for s in sources)  # type: ignore[attr-defined]
        return Probe(num_clips=1, decode_s=0.1, log_mel_s=0.1, clip_s=0.3)

    monkeypatch.setattr(run_module, "probe_clips", probe)
    lines: list[str] = []
    run(clips.config(tmp_path / "few"), say=lines.append)
    assert not any("ms/clip" in line for line in lines)
    monkeypatch.setattr(run_module, "_TABLE_FROM_CLIPS", 9)
    run(clips.config(tmp_path / "enough"), say=lines.append)
    assert any("ms/clip" in line for line in lines)
    assert clips.sources[0].clip_id not in probed
    lines.clear()
    run(clips.config(tmp_path / "enough"), say=lines.append)
    assert not any("ms/clip" in line for line in lines)
