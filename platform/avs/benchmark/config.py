"""Configuration of ``jobs/benchmark.py``."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from avs.errors import ConfigError

__all__ = ["BenchmarkConfig", "Stage"]


class Stage(enum.Enum):
    """What is measured."""

    PREPARE = "prepare"


@dataclass(kw_only=True, slots=True)
class BenchmarkConfig:
    """``repeats`` interleaved runs of each contender of ``stage``, with ``processes`` workers.

    ``videos`` is a local folder whose videos are repeated up to ``num_clips`` clips (null:
    synthetic ones). ``contenders`` keeps only some of the stage's. ``quick`` runs each once on a
    handful of clips: a smoke test, whose figures say nothing.
    """

    stage: Stage
    out: str
    num_clips: int
    repeats: int
    processes: int
    shard_clips: int
    quick: bool
    videos: str | None = None
    contenders: list[str] | None = None

    def __post_init__(self) -> None:
        for key in ("num_clips", "repeats", "processes", "shard_clips"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be at least 1.")
        if self.quick:
            self.num_clips, self.repeats = min(self.num_clips, 8), 1
            self.shard_clips = min(self.shard_clips, 2)
