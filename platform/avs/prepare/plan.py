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
from avs.datasets import ClipSource, DataConfig
from avs.schema import SCHEMA_VERSION

__all__ = ["ShardPlan", "config_hash", "plan_shards"]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard: file name, the sources of its clips in order, and the hash of both."""

    name: str
    split: str
    sources: tuple[ClipSource, ...]
    hash: str


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
    return {k: v for k, v in plain.items() if k not in ("root", "limit")}


def _shard_hash(sources: tuple[ClipSource, ...], config: DataConfig) -> str:
    # repr of a frozen dataclass lists every field, enums included.
    return _hash({"config": config_hash(config), "clips": [repr(asdict(s)) for s in sources]})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
