"""How fast a prepare run was, stage by stage, against the bare decoder on the same cores.

Workers time what they do for every clip. The decoder works in a process of its own, so its time is
seen from outside and holds the millisecond that a result takes to arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avs.prepare.records import ShardTiming

__all__ = ["RunTiming", "throughput_table"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTiming:
    """Shards of this run, its seconds from the first task to the last record, and its cores."""

    shards: Sequence[ShardTiming]
    wall_s: float
    num_cores: int


def throughput_table(run: RunTiming) -> list[str]:
    """Lines of a table: milliseconds a clip, clips a second on all cores, percent of bare.

    A row that is one stage of several has only its milliseconds; clips that were read from pictures
    have no decoder to compare with.
    """
    num_clips = sum(s.num_sources for s in run.shards)
    decode_s = sum(s.decode_s for s in run.shards) / num_clips
    clips_s = sum(s.clips_s for s in run.shards) / num_clips
    checks_s = sum(s.checks_s for s in run.shards) / num_clips
    write_s = sum(s.write_s for s in run.shards) / num_clips
    rows: list[tuple[str, float, bool]] = [
        ("decoder", decode_s, True),
        ("log-mel, masks", clips_s - decode_s, False),
        ("hash, statistics", checks_s, False),
        ("write", write_s, False),
        ("all stages, in workers", clips_s + checks_s + write_s, True),
        ("the run, start and waiting too", run.wall_s * run.num_cores / num_clips, True),
    ]
    if not decode_s:
        del rows[0]
    head = f"{'stage':34}{'ms/clip':>9}{f'clips/s, {run.num_cores} cores':>20}{'% of decoder':>14}"
    return [head, *(_row(*row, num_cores=run.num_cores, bare_s=decode_s) for row in rows)]


def _row(name: str, clip_s: float, whole: bool, *, num_cores: int, bare_s: float) -> str:
    line = f"{name:34}{1000 * clip_s:9.1f}"
    if whole and clip_s > 0:
        line += f"{num_cores / clip_s:20.1f}"
        line += f"{100 * bare_s / clip_s:14.0f}" if bare_s else f"{'-':>14}"
    return line
