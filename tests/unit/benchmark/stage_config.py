"""Configurations of the stages that run in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avs.benchmark import (
    BenchmarkConfig,
    ModelsConfig,
    SegmentStageConfig,
    ServeStageConfig,
    TrainStageConfig,
)
from avs.config import parse

MODELS_SECTION: dict[str, Any] = {
    "backbone": "test_resnet",
    "image_size_px": 64,
    "fusion_width": 16,
    "pairs": 1,
    "num_threads": 1,
    "memory_limit_gb": 16.0,
    "cost": False,
    "backbones": ["test_resnet"],
}
TRAIN_SECTION: dict[str, Any] = {
    "num_clips": 32,
    "image_size_px": 64,
    "overrides": ["model=tiny"],
    "workers": [1, 2],
    "epochs": 3,
    "loader_processes": 0,
    "start_workers": 1,
    "start_overrides": [],
}
SEGMENT_SECTION: dict[str, Any] = {
    "models": ["tiny"],
    "num_threads": 1,
    "outputs": ["rle_json"],
}
SERVE_SECTION: dict[str, Any] = {
    "models": ["tiny", "tpavi"],
    "num_threads": 2,
    "num_clips": 2,
    "requests": 4,
    "clients": 3,
    "round_s": 60.0,
}


def stage_config(out: Path, *, repeats: int = 1, **models: Any) -> BenchmarkConfig:
    """``models`` are keys of its section; without a cost table unless it says so."""
    config = _config("models", out, repeats=repeats, models=models)
    assert isinstance(config.models, ModelsConfig)
    return config


def train_stage_config(
    out: Path, *, repeats: int = 1, quick: bool = False, **train: Any
) -> BenchmarkConfig:
    """``train`` are keys of its section."""
    config = _config("train", out, repeats=repeats, quick=quick, train=train)
    assert isinstance(config.train, TrainStageConfig)
    return config


def serve_stage_config(
    out: Path, *, repeats: int = 1, quick: bool = False, **serve: Any
) -> BenchmarkConfig:
    """``serve`` are keys of its section."""
    config = _config("serve", out, repeats=repeats, quick=quick, serve=serve)
    assert isinstance(config.serve, ServeStageConfig)
    return config


def segment_stage_config(out: Path, *, num_clips: int = 10, **segment: Any) -> BenchmarkConfig:
    """``segment`` are keys of its section."""
    config = _config("segment", out, repeats=1, segment=segment)
    config.num_clips = num_clips
    assert isinstance(config.segment, SegmentStageConfig)
    return config


def _config(
    stage: str,
    out: Path,
    *,
    repeats: int,
    quick: bool = False,
    models: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    serve: Mapping[str, Any] | None = None,
    segment: Mapping[str, Any] | None = None,
) -> BenchmarkConfig:
    plain = {
        "stage": stage,
        "out": str(out),
        "num_clips": 1,
        "repeats": repeats,
        "processes": 1,
        "shard_clips": 1,
        "quick": quick,
        "models": {**MODELS_SECTION, **(models or {})},
        "train": {**TRAIN_SECTION, **(train or {})},
        "serve": {**SERVE_SECTION, **(serve or {})},
        "segment": {**SEGMENT_SECTION, **(segment or {})},
    }
    config: BenchmarkConfig = parse(plain, BenchmarkConfig)
    return config
