"""The plan: which clips make which shard, fixed before anything is decoded.

Names, order and bytes of shards then do not depend on scheduling, and resuming is a comparison of
hashes: a shard is done when its commit record carries the hash of its clips and configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from avs.config import dump
from avs.datasets import ClipSource, DataConfig, dataset_spec
from avs.media.logmel import Alignment
from avs.prepare.config import PrepareConfig
from avs.schema import SCHEMA_VERSION, ClipFormat

__all__ = ["Plan", "ShardPlan", "config_hash", "make_plan", "plan_shards"]

# Fields of a source that tell about it without deciding what its rows hold.
_NOT_IN_ROWS = ("video_id", "notes")


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard: file name, the sources of its clips in order, and the hash of both."""

    name: str
    split: str
    sources: tuple[ClipSource, ...]
    hash: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All shards of a run, and the format of their rows."""

    shards: list[ShardPlan]
    form: ClipFormat

    @property
    def sources(self) -> list[ClipSource]:
        """The clips of all shards."""
        return [source for shard in self.shards for source in shard.sources]


def make_plan(config: PrepareConfig) -> Plan:
    """List the data set and deal its clips to shards.

    Raises:
        DataError: the data set cannot be listed.
    """
    data = config.data
    spec = dataset_spec(data.name)
    form = ClipFormat(
        num_frames=data.num_frames,
        height_px=data.image_size_px,
        width_px=data.image_size_px,
        class_names=spec.class_names(data),
        with_waveform=data.with_waveform,
    )
    return Plan(plan_shards(spec.list_clips(data), data, shard_clips=config.shard_clips), form)


def plan_shards(
    sources: list[ClipSource], config: DataConfig, *, shard_clips: int
) -> list[ShardPlan]:
    """Deal the sources, in their listed order, to shards of one split each."""
    by_split: dict[str, list[ClipSource]] = defaultdict(list)
    for source in sources:
        if config.limit is None or len(by_split[source.split]) < config.limit:
            by_split[source.split].append(source)
    plans = []
    for number, split in enumerate(sorted(by_split)):
        for first in range(0, len(by_split[split]), shard_clips):
            part = tuple(by_split[split][first : first + shard_clips])
            stem = split if split.isidentifier() else f"split{number}"
            name = f"{stem}-{first // shard_clips:05d}.parquet"
            plans.append(ShardPlan(name, split, part, _shard_hash(part, config)))
    return plans


def config_hash(config: DataConfig) -> str:
    """Hash of everything in the configuration that decides the content of the rows."""
    return _hash({"schema": SCHEMA_VERSION, "data": _content(config)})


def _content(config: DataConfig) -> dict[str, Any]:
    plain: dict[str, Any] = dump(config)
    if config.audio.alignment is Alignment.AVSBENCH:
        del plain["audio"]["alignment"]  # the key is younger than folders that hold the same rows
    if plain.pop("categories") is not None:  # so is this one
        plain["categories"] = "joined"  # the clips tell what the csv says, wherever it lies
    return {k: v for k, v in plain.items() if k not in ("root", "limit")}


def _shard_hash(sources: tuple[ClipSource, ...], config: DataConfig) -> str:
    return _hash({"config": config_hash(config), "clips": [_clip_content(s) for s in sources]})


def _clip_content(source: ClipSource) -> str:
    plain = {k: v for k, v in asdict(source).items() if k not in _NOT_IN_ROWS}
    return repr(plain)  # names every field, enums included


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
