"""Configuration of ``jobs/benchmark.py``."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from avs.benchmark.segment_config import SegmentStageConfig
from avs.benchmark.serve_config import ServeStageConfig
from avs.benchmark.train_config import TrainStageConfig
from avs.errors import ConfigError

__all__ = [
    "BenchmarkConfig",
    "ModelsConfig",
    "SegmentStageConfig",
    "ServeStageConfig",
    "Stage",
    "TrainStageConfig",
]


class Stage(enum.Enum):
    """What is measured."""

    PREPARE = "prepare"
    MODELS = "models"
    TRAIN = "train"
    SERVE = "serve"
    SEGMENT = "segment"


@dataclass(kw_only=True, slots=True)
class ModelsConfig:
    """Stage ``models``: the networks, and how each child process runs them.

    ``image_size_px`` is the base size; cases of other sizes scale it. ``num_threads`` of torch in a
    child.
    Cases: on ``backbone`` with ``fusion_width``; ``pairs`` interleaved runs of ours and the
    published form give a ratio each; a contender whose N x N matrices need more than
    ``memory_limit_gb`` (10^9 bytes) is not started; ``cases`` keeps only some, [] none.
    Cost table: made where ``cost`` says so, of ``cost_models`` (null: all) on ``backbones``.
    """

    backbone: str
    image_size_px: int
    fusion_width: int
    pairs: int
    num_threads: int
    memory_limit_gb: float
    cost: bool
    backbones: list[str]
    cost_models: list[str] | None = None
    cases: list[str] | None = None

    def __post_init__(self) -> None:
        for key in ("pairs", "num_threads"):
            if getattr(self, key) < 1:
                raise ConfigError(f"models.{key}={getattr(self, key)} must be at least 1.")
        if self.image_size_px < 32 or self.image_size_px % 32:
            raise ConfigError(f"models.image_size_px={self.image_size_px}: a multiple of 32.")
        if not self.memory_limit_gb > 0:
            raise ConfigError(f"models.memory_limit_gb={self.memory_limit_gb} must be above 0.")
        for key in ("backbones", "cost_models"):
            if self.cost and getattr(self, key) == []:
                raise ConfigError(f"models.{key}=[]: one or more, or models.cost=false.")


@dataclass(kw_only=True, slots=True)
class BenchmarkConfig:
    """What is measured, and how often.

    ``repeats`` interleaved runs of each contender of all stages but ``models``, and of its cost
    table. Stages ``prepare`` and ``segment``: with ``processes`` workers.
    ``videos`` is a local folder whose videos are repeated up to ``num_clips`` clips (null:
    synthetic ones). ``contenders`` keeps only some of the stage's. All stages but ``prepare`` have
    sections of their own. ``quick`` runs each contender once on a
    handful of clips or on a tiny network: a smoke test, whose figures say nothing.
    """

    stage: Stage
    out: str
    num_clips: int
    repeats: int
    processes: int
    shard_clips: int
    quick: bool
    models: ModelsConfig
    train: TrainStageConfig
    serve: ServeStageConfig
    segment: SegmentStageConfig
    videos: str | None = None
    contenders: list[str] | None = None

    def __post_init__(self) -> None:
        for key in ("num_clips", "repeats", "processes", "shard_clips"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be at least 1.")
        if self.quick:
            self.num_clips, self.repeats = min(self.num_clips, 8), 1
            self.shard_clips = min(self.shard_clips, 2)
            self.models = replace(
                self.models,
                backbone="test_resnet",
                backbones=["test_resnet"],
                image_size_px=64,
                fusion_width=16,
                pairs=1,
            )
            self.train = self.train.quick()
            self.serve = self.serve.quick()
            self.segment = self.segment.quick()
