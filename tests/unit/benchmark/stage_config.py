"""A configuration of stage ``models`` that runs in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avs.benchmark import BenchmarkConfig, ModelsConfig
from avs.config import parse


def stage_config(out: Path, *, repeats: int = 1, **models: Any) -> BenchmarkConfig:
    """``models`` are keys of its section; without a cost table unless it says so."""
    section = {
        "backbone": "test_resnet",
        "image_size_px": 64,
        "fusion_width": 16,
        "pairs": 1,
        "num_threads": 1,
        "memory_limit_gb": 16.0,
        "cost": False,
        "backbones": ["test_resnet"],
    }
    plain = {
        "stage": "models",
        "out": str(out),
        "num_clips": 1,
        "repeats": repeats,
        "processes": 1,
        "shard_clips": 1,
        "quick": False,
        "models": section | models,
    }
    config: BenchmarkConfig = parse(plain, BenchmarkConfig)
    assert isinstance(config.models, ModelsConfig)
    return config
