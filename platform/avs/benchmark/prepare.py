"""Stage ``prepare``: the job beside the bare loop and AVSBench's own preprocessing.

Each contender is a process of its own, started from nothing, and is judged by the files that it
leaves: their times give the rate from the first finished one to the last, without start-up.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from avs.benchmark.clips import link_clips, synthetic_videos, usable_videos
from avs.benchmark.config import BenchmarkConfig
from avs.benchmark.frame import Contender, interleave, write_result
from avs.benchmark.process import Usage, run_measured
from avs.config import choice_error, dump
from avs.errors import AvsError

__all__ = ["benchmark_prepare"]

_WHAT = {
    "bare": "the same decoding and writing in a process pool",
    "avs": "jobs/prepare.py on Ray Data, start-up of Ray included",
    "published": "AVSBench's preprocessing, one process",
}


def benchmark_prepare(
    config: BenchmarkConfig, *, jobs: Path, say: Callable[[str], None] = print
) -> str:
    """Measure; write ``benchmark.json`` and ``benchmark.md`` below ``config.out``; returns the md.

    ``jobs`` is the folder of the jobs. Figures: ``clips_per_s`` with start-up,
    ``steady_clips_per_s`` from the first finished file to the last, ``peak_mb`` of all processes.
    """
    out = Path(config.out).absolute()
    names = list(_WHAT) if config.contenders is None else config.contenders
    for name in names:
        if name not in _WHAT:
            raise choice_error("contenders", name, list(_WHAT))
    root = out / "clips"
    shutil.rmtree(root, ignore_errors=True)
    videos = usable_videos(config.videos) if config.videos else synthetic_videos(out / "synthetic")
    link_clips(videos, root, num_clips=config.num_clips)
    say(f"benchmark: {config.num_clips} clips from {len(videos)} videos")

    commands = _commands(config, root, jobs)
    contenders = [
        Contender(name=n, what=_WHAT[n], run=_runner(n, commands[n], config, out)) for n in names
    ]
    results = interleave(contenders, repeats=config.repeats, say=say)
    settings = {**dump(config), "num_videos": len(videos)}
    title = f"prepare: {config.num_clips} clips, {config.processes} processes"
    text = write_result(str(out), title=title, results=results, what=_WHAT, settings=settings)
    say(text)
    return text


def _commands(config: BenchmarkConfig, root: Path, jobs: Path) -> dict[str, list[str]]:
    """The command of each contender; ``{out}`` stands for where it writes."""
    python, shard_clips = sys.executable, str(config.shard_clips)
    module = [python, "-m", "avs.benchmark.bare_prepare"]
    return {
        "bare": [*module, str(root), "{out}", str(config.processes), shard_clips],
        "avs": [
            python,
            str(jobs / "prepare.py"),
            "data=s4",
            f"data.root='{root}'",
            "out='{out}'",
            f"shard_clips={shard_clips}",
        ],
        "published": [python, "-m", "avs.benchmark.published_prepare", str(root), "{out}"],
    }


def _runner(
    name: str, command: list[str], config: BenchmarkConfig, out: Path
) -> Callable[[int], dict[str, float]]:
    def run(repeat: int) -> dict[str, float]:
        target = out / "runs" / f"{name}-{repeat}"
        shutil.rmtree(target, ignore_errors=True)
        usage = run_measured([part.replace("{out}", str(target)) for part in command])
        pattern = "*/log_mel.pkl" if name == "published" else "shards/*.parquet"
        files_clips = 1 if name == "published" else config.shard_clips
        figures = _figures(usage, sorted(target.glob(pattern)), files_clips, config.num_clips)
        shutil.rmtree(target)
        return figures

    return run


def _figures(
    usage: Usage, files: list[Path], clips_a_file: int, num_clips: int
) -> dict[str, float]:
    if len(files) != -(-num_clips // clips_a_file):
        raise AvsError(f"a run left {len(files)} files of {clips_a_file} for {num_clips} clips")
    times_s = sorted(file.stat().st_mtime for file in files)
    steady_s = times_s[-1] - times_s[0]
    later_clips = num_clips - clips_a_file
    return {
        "clips_per_s": num_clips / usage.seconds,
        "steady_clips_per_s": later_clips / steady_s if steady_s else float("nan"),
        "first_file_s": times_s[0] - usage.started_s,
        "peak_mb": usage.peak_bytes / 1e6,
    }
