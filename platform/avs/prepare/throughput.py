"""How fast a prepare run was, stage by stage, against the bare decoder on the same cores.

What workers did for all clips is timed as they do it: making clips, checking, writing. The inside
of making a clip is seen by a probe: after the run every core decodes a few of its clips again,
once bare and once whole. So "decode" and "log-mel" are measured alone and "masks and rest" is the
difference; the clips come from the file cache then. Start-up is what each worker imports at its
first clip: seconds that weigh on short runs only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from avs import storage
from avs.datasets import ClipSource, DataConfig, dataset_spec
from avs.errors import AvsError
from avs.media.audio import clip_log_mel, from_int16, to_int16
from avs.media.video import Sampling, decode_video
from avs.prepare.clip import prepare_clip
from avs.prepare.records import ShardTiming

__all__ = ["Probe", "RunTiming", "probe_batches", "probe_clips", "throughput_table"]

_CLIPS_PER_CORE = 4
_MAX_CORES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Seconds that one core took for ``num_clips`` clips: decoded bare, log-mel, made whole."""

    num_clips: int
    decode_s: float
    log_mel_s: float
    clip_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTiming:
    """Shards of this run, its seconds from the first task to the last record, and its cores."""

    shards: Sequence[ShardTiming]
    wall_s: float
    num_cores: int


def probe_batches(sources: Sequence[ClipSource], num_cores: int) -> list[list[ClipSource]]:
    """One batch a core of evenly spread videos; none where clips are not decoded from videos."""
    videos = [source for source in sources if source.video]
    cores = min(num_cores, _MAX_CORES)
    count = min(len(videos), cores * _CLIPS_PER_CORE)
    chosen = [videos[k * len(videos) // count] for k in range(count)]
    return [batch for core in range(cores) if (batch := chosen[core::cores])]


def probe_clips(sources: Sequence[ClipSource], config: DataConfig) -> Probe:
    """Time the stages of making these clips, in this process; what fails now is left out."""
    times = []
    for number, source in enumerate([sources[0], *sources]):
        try:
            timed = _probe_clip(source, config)
        except (AvsError, OSError):
            continue
        if number:  # the first time is for imports and caches
            times.append(timed)
    decode_s, log_mel_s, clip_s = (sum(t) for t in zip((0.0, 0.0, 0.0), *times, strict=True))
    return Probe(num_clips=len(times), decode_s=decode_s, log_mel_s=log_mel_s, clip_s=clip_s)


def _probe_clip(source: ClipSource, config: DataConfig) -> tuple[float, float, float]:
    """Seconds to decode one clip bare, for its log-mel, and to make it whole."""
    spec = dataset_spec(config.name)
    assert source.video is not None
    start_s = time.perf_counter()
    with storage.local_copy(source.video) as path:
        video = decode_video(
            path,
            size_px=(config.image_size_px, config.image_size_px),
            sampling=spec.sampling,
            num_frames=None if spec.sampling is Sampling.TIME else config.num_frames,
        )
    decoded_s = time.perf_counter()
    if video.samples is not None:
        sound = from_int16(to_int16(video.samples))
        clip_log_mel(sound, num_examples=len(video.frames), pad=spec.pad)
    heard_s = time.perf_counter()
    prepare_clip(source, config)
    return decoded_s - start_s, heard_s - decoded_s, time.perf_counter() - heard_s


def throughput_table(run: RunTiming, probes: Sequence[Probe]) -> list[str]:
    """Lines of a table: milliseconds a clip, clips a second on all cores, percent of bare.

    A row that is one stage of several has only its milliseconds.
    """
    num_clips = sum(s.num_sources for s in run.shards)
    probed = sum(p.num_clips for p in probes)
    decode_s = sum(p.decode_s for p in probes) / probed if probed else None
    rows: list[tuple[str, float, bool]] = []
    if decode_s is not None:
        log_mel_s = sum(p.log_mel_s for p in probes) / probed
        rest_s = sum(p.clip_s for p in probes) / probed - decode_s - log_mel_s
        rows += [
            (f"bare decoder ({probed} clips again)", decode_s, True),
            ("  log-mel (the same)", log_mel_s, False),
            ("  masks and rest (the same)", max(rest_s, 0.0), False),
        ]
    rows += [
        ("decode, log-mel, masks, start-up", sum(s.clips_s for s in run.shards) / num_clips, False),
        ("hash, statistics", sum(s.checks_s for s in run.shards) / num_clips, False),
        ("write", sum(s.write_s for s in run.shards) / num_clips, False),
    ]
    busy_s = sum(s.clips_s + s.checks_s + s.write_s for s in run.shards) / num_clips
    rows += [
        ("all stages, in workers", busy_s, True),
        ("the run, waiting included", run.wall_s * run.num_cores / num_clips, True),
    ]
    head = f"{'stage':34}{'ms/clip':>9}{f'clips/s, {run.num_cores} cores':>20}{'% of bare':>11}"
    return [head, *(_row(*row, num_cores=run.num_cores, bare_s=decode_s) for row in rows)]


def _row(name: str, clip_s: float, whole: bool, *, num_cores: int, bare_s: float | None) -> str:
    line = f"{name:34}{1000 * clip_s:9.1f}"
    if whole and clip_s > 0:
        line += f"{num_cores / clip_s:20.1f}"
        line += f"{100 * bare_s / clip_s:11.0f}" if bare_s is not None else f"{'-':>11}"
    return line
