"""Stage ``segment``: the bucket job beside a loop over the same videos on the same cores.

Both are started anew with a few videos and with many: what the many take longer is the time of
videos alone, without the start of processes, Ray and networks, and without what was decoded ahead.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from avs.benchmark.clips import synthetic_videos, usable_videos
from avs.benchmark.config import BenchmarkConfig
from avs.benchmark.frame import Contender, interleave, write_result
from avs.benchmark.process import Usage, run_measured
from avs.benchmark.serve_models import random_checkpoint
from avs.config import choice_error
from avs.errors import AvsError

__all__ = ["benchmark_segment"]

_WHAT = {
    "bare": "the same decoding, network and outputs in processes, without Ray",
    "avs": "jobs/segment.py",
}
_FEW = 5  # the smaller number of videos is the larger one divided by this


def benchmark_segment(
    config: BenchmarkConfig, *, jobs: Path, say: Callable[[str], None] = print
) -> str:
    """Measure; write ``benchmark.json`` and ``benchmark.md`` below ``config.out``; returns the md.

    ``jobs`` is the folder of the jobs. To be called inside a Hydra main: the models are composed
    from their files. Figures: ``clips_per_s`` of the videos that the larger run has more,
    ``total_s`` of the larger run with its start, ``peak_mb`` of all its processes.

    Raises:
        ConfigError: an unknown model or contender, or fewer than 2 videos. AvsError: a run failed.
    """
    stage, out = config.segment, Path(config.out).absolute()
    names = list(_WHAT) if config.contenders is None else config.contenders
    for name in names:
        if name not in _WHAT:
            raise choice_error("contenders", name, list(_WHAT))
    videos = usable_videos(config.videos) if config.videos else synthetic_videos(out / "synthetic")
    sizes = (max(1, config.num_clips // _FEW), max(2, config.num_clips))
    folders = [_linked(videos, out / "in" / str(size), count=size) for size in sizes]
    results: dict[str, list[dict[str, float]]] = {}
    what: dict[str, str] = {}
    for model in stage.models:
        checkpoint = random_checkpoint(model, out / "checkpoints", num_threads=stage.num_threads)
        contenders = [
            Contender(
                name=f"{model} {name}",
                what=_WHAT[name],
                run=_runner(_command(name, config, checkpoint, jobs), folders, out / "runs"),
            )
            for name in names
        ]
        results |= interleave(contenders, repeats=config.repeats, say=say)
        what |= {contender.name: contender.what for contender in contenders}
    settings = {"num_videos": len(videos), "num_clips": sizes, "processes": config.processes}
    section = asdict(stage) | {"outputs": [kind.value for kind in stage.outputs]}
    title = f"segment: {sizes[1]} clips, {config.processes} processes"
    text = write_result(
        str(out), title=title, results=results, what=what, settings=settings | section
    )
    say(text)
    return text


def _linked(videos: Sequence[Path], folder: Path, *, count: int) -> Path:
    """A folder of ``count`` links to videos in turn."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for k in range(count):
        video = videos[k % len(videos)]
        (folder / f"{k:06d}{video.suffix}").symlink_to(video.resolve())
    return folder


def _command(
    name: str, config: BenchmarkConfig, checkpoint: str, jobs: Path
) -> Callable[[Path, Path], list[str]]:
    outputs = ",".join(kind.value for kind in config.segment.outputs)
    processes = str(config.processes)

    def bare(source: Path, target: Path) -> list[str]:
        module = [sys.executable, "-m", "avs.benchmark.bare_segment"]
        return [*module, checkpoint, str(source), str(target), processes, outputs]

    def avs(source: Path, target: Path) -> list[str]:
        job = [sys.executable, str(jobs / "segment.py"), f"checkpoint='{checkpoint}'"]
        job += [f"input='{source}'", f"out='{target}'", f"outputs=[{outputs}]"]
        return [*job, f"scale.num_workers={processes}"]

    return bare if name == "bare" else avs


def _runner(
    command: Callable[[Path, Path], list[str]], folders: Sequence[Path], runs: Path
) -> Callable[[int], Mapping[str, float]]:
    def measured(source: Path) -> Usage:
        target = runs / "out"
        shutil.rmtree(target, ignore_errors=True)
        usage = run_measured(command(source, target))
        num_done = sum((folder / "masks.json").exists() for folder in target.iterdir())
        shutil.rmtree(target)
        wanted = len(list(source.iterdir()))
        if num_done != wanted:
            raise AvsError(f"a run left masks.json of {num_done} of {wanted} videos")
        return usage

    def run(_: int) -> Mapping[str, float]:
        few, many = (measured(folder) for folder in folders)
        more_clips = len(list(folders[1].iterdir())) - len(list(folders[0].iterdir()))
        more_s = many.seconds - few.seconds
        return {
            "clips_per_s": more_clips / more_s if more_s > 0 else float("nan"),
            "total_s": many.seconds,
            "peak_mb": many.peak_bytes / 1e6,
        }

    return run
