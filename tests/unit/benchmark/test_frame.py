"""The frame takes turns, keeps every figure and compares medians; a failing contender is named."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from stage_config import MODELS_SECTION, SEGMENT_SECTION, SERVE_SECTION, TRAIN_SECTION

from avs.benchmark import BenchmarkConfig, Stage
from avs.benchmark.clips import link_clips
from avs.benchmark.frame import Contender, interleave, markdown, summarise, write_result
from avs.benchmark.prepare import benchmark_prepare
from avs.benchmark.process import run_measured
from avs.config import parse
from avs.datasets import DataConfig, dataset_spec
from avs.errors import AvsError, ConfigError

WHAT = {"a": "the first", "b": "the second", "c": "the third"}


def _contenders(calls: list[str]) -> list[Contender]:
    def runner(name: str, factor: float) -> Contender:
        def run(repeat: int) -> dict[str, float]:
            calls.append(name)
            return {"rate": factor * (repeat + 1)}

        return Contender(name=name, what=WHAT[name], run=run)

    return [runner("a", 1.0), runner("b", 2.0), runner("c", 3.0)]


def test_contenders_take_turns_and_who_begins_rotates() -> None:
    calls: list[str] = []
    interleave(_contenders(calls), repeats=3, say=lambda _: None)
    assert "".join(calls) == "abc" + "bca" + "cab"


def test_medians_spread_and_ratios_are_shown(tmp_path: Path) -> None:
    results = interleave(_contenders([]), repeats=3, say=lambda _: None)
    figure = summarise(results)["b"]["rate"]
    assert (figure.median, figure.least, figure.greatest) == (4.0, 2.0, 6.0)
    table = markdown("title", summarise(results), what=WHAT)
    assert "| b: the second | 4 (2 to 6), x 2.00 |" in table
    text = write_result(
        str(tmp_path), title="title", results=results, what=WHAT, settings={"num_clips": 1}
    )
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert written["repeats"]["c"] == [{"rate": 3.0}, {"rate": 6.0}, {"rate": 9.0}]
    assert written["machine"]["num_cores"] >= 1
    assert (tmp_path / "benchmark.md").read_text() == text
    assert "num_cores" in text


def test_a_command_is_measured_with_the_processes_that_it_starts() -> None:
    child = "import sys; block = bytearray(60_000_000); sys.stdin.read()"
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE)\n"
        "time.sleep(1.5)\n"  # the span of the measurement, not a synchronisation
        "child.communicate()\n"
    )
    before_s = time.time()
    usage = run_measured([sys.executable, "-c", parent])
    assert before_s <= usage.started_s
    assert usage.seconds >= 1.5
    assert usage.peak_bytes > 60_000_000


def test_a_command_that_fails_tells_what_it_said() -> None:
    with pytest.raises(AvsError, match=r"ended with 3: .*bad luck"):
        run_measured([sys.executable, "-c", "import sys; print('bad luck'); sys.exit(3)"])


def test_linked_clips_are_an_s4_data_set_of_any_size(s4_root: Path, tmp_path: Path) -> None:
    link_clips(sorted(s4_root.rglob("*.mp4"))[:2], tmp_path, num_clips=5)
    config = DataConfig(name="s4", root=str(tmp_path), image_size_px=32, num_frames=5)
    clips = dataset_spec("s4").list_clips(config)
    assert len({clip.clip_id for clip in clips}) == 5
    assert [clip.problem for clip in clips] == [None] * 5


@pytest.mark.parametrize("key", ["num_clips", "repeats", "processes", "shard_clips"])
def test_a_count_of_zero_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}=0"):
        parse({**_plain(), key: 0}, BenchmarkConfig)


def test_an_unknown_contender_names_the_known_ones(tmp_path: Path) -> None:
    config = parse({**_plain(), "out": str(tmp_path), "contenders": ["bear"]}, BenchmarkConfig)
    with pytest.raises(ConfigError, match="avs, bare, published"):
        benchmark_prepare(config, jobs=tmp_path)


def test_two_contenders_of_the_stage_leave_figures(s4_root: Path, tmp_path: Path) -> None:
    plain = {**_plain(), "out": str(tmp_path), "contenders": ["bare", "published"]}
    config = parse({**plain, "videos": str(s4_root), "quick": True}, BenchmarkConfig)
    assert config.stage is Stage.PREPARE
    said: list[str] = []
    benchmark_prepare(config, jobs=tmp_path, say=said.append)
    summary = json.loads((tmp_path / "benchmark.json").read_text())["summary"]
    assert set(summary) == {"bare", "published"}
    assert all(figures["clips_per_s"]["median"] > 0 for figures in summary.values())
    assert not list((tmp_path / "runs").iterdir())


def _plain() -> dict[str, object]:
    return {
        "stage": "prepare",
        "out": "out",
        "num_clips": 4,
        "repeats": 1,
        "processes": 1,
        "shard_clips": 2,
        "quick": False,
        "models": MODELS_SECTION,
        "train": TRAIN_SECTION,
        "serve": SERVE_SECTION,
        "segment": SEGMENT_SECTION,
    }
