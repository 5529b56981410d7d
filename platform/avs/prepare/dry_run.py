"""The plan of a prepare run, told without writing: clips, bytes, shards and a guess of the time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avs import storage
from avs.datasets import ClipSource, metadata_notes
from avs.errors import AvsError
from avs.prepare.clip import prepare_clip
from avs.prepare.config import PrepareConfig
from avs.prepare.folder import check_folder
from avs.prepare.leaks import report_leaks, source_leaks
from avs.prepare.plan import Plan, ShardPlan, make_plan
from avs.prepare.records import read_records
from avs.prepare.rejects import common_messages
from avs.schema import Clip, write_clips

__all__ = ["show_plan"]

_PROBE_CLIPS = 4
_PROBE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probe:
    """What preparing a few clips took in this process, and the bytes that they became."""

    num_clips: int
    input_bytes: int
    seconds: float
    output_bytes: int


def show_plan(config: PrepareConfig, *, num_cores: int, say: Callable[[str], None] = print) -> None:
    """Say what a run of ``config`` would do on ``num_cores`` cores; writes nothing to ``out``.

    Raises:
        DataError: the data set cannot be listed, its splits leak, or ``out`` holds another
            configuration's shards: what the run would refuse.
    """
    plan = make_plan(config)
    leaks = source_leaks(plan.sources)
    warnings = report_leaks(leaks, dataset=config.data.name, allow=config.allow_leaks)
    out = storage.absolute(config.out)
    check_folder(out, config.data)
    done = read_records(out, plan.shards)
    say(f"plan for {config.data.name} -> {out} (dry run: nothing is written)")
    for split in dict.fromkeys(shard.split for shard in plan.shards):
        say(f"  {split}: {_amount([shard for shard in plan.shards if shard.split == split])}")
    say(f"  in all: {_amount(plan.shards)}")
    notes = [f"{count} x {note}" for note, count in metadata_notes(plan.sources).items()]
    for line in (*_listed_problems(plan), *(f"warning: {w}" for w in (*notes, *warnings))):
        say(f"  {line}")
    todo = [shard for shard in plan.shards if shard.name not in done]
    if done:
        say(f"  {len(done)} shards are there already, left: {_amount(todo)}")
    if todo:
        say(f"  {_estimate(todo, plan, config, num_cores)}")


def _amount(shards: Sequence[ShardPlan]) -> str:
    sources = [source for shard in shards for source in shard.sources]
    size = sum(source.source.size_bytes for source in sources)
    return f"{len(sources)} clips, {_megabytes(size)} of media, {len(shards)} shards"


def _listed_problems(plan: Plan) -> list[str]:
    found = [(s.source.uri, s.problem) for s in plan.sources if s.problem]
    reasons = common_messages(found)
    lines = [f"{len(found)} clips are rejects already: the listing says so"] if found else []
    return [*lines, *(f"  {count} x {reason}" for reason, count in reasons[:3])]


def _estimate(todo: Sequence[ShardPlan], plan: Plan, config: PrepareConfig, num_cores: int) -> str:
    """Scales a probe by bytes of video, or by clips where clips are many small files."""
    sources = [s for shard in todo for s in shard.sources if not s.problem]
    probe = _probe(sources, plan, config)
    if probe is None:
        return "no estimate: none of the clips of the probe could be prepared"
    if all(source.video for source in sources) and probe.input_bytes:
        factor = sum(s.source.size_bytes for s in sources) / probe.input_bytes
    else:
        factor = len(sources) / probe.num_clips
    seconds = factor * probe.seconds
    return (
        f"about {seconds / num_cores:.0f} s on {num_cores} cores and "
        f"{_megabytes(factor * probe.output_bytes)} of shards, from {probe.num_clips} clips "
        f"prepared just now in {probe.seconds:.2f} s by one core"
    )


def _probe(sources: list[ClipSource], plan: Plan, config: PrepareConfig) -> _Probe | None:
    """A few clips of at most the median size, so that a folder of films is not decoded for it."""
    small = sorted(sources, key=lambda s: s.source.size_bytes)[: (len(sources) + 1) // 2]
    count = min(_PROBE_CLIPS, len(small))
    chosen = [small[k * len(small) // count] for k in range(count)]
    clips: list[Clip] = []
    num_clips = input_bytes = 0
    begun_s = time.perf_counter()
    for number, source in enumerate(chosen):
        try:
            made = prepare_clip(source, config.data)
        except (AvsError, OSError):
            continue  # the run would make it a reject
        if number == 0 and len(chosen) > 1:
            begun_s = time.perf_counter()  # the first clip pays for imports
            continue
        clips += made
        num_clips += 1
        input_bytes += source.source.size_bytes
        if time.perf_counter() - begun_s > _PROBE_S:
            break
    if not num_clips:
        return None
    with tempfile.TemporaryDirectory(prefix="avs-") as folder:
        path = Path(folder) / "probe.parquet"
        write_clips(clips, str(path), plan.form)
        return _Probe(
            num_clips=num_clips,
            input_bytes=input_bytes,
            seconds=time.perf_counter() - begun_s,
            output_bytes=path.stat().st_size,
        )


def _megabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
