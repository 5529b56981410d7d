"""Configuration of ``jobs/prepare.py``."""

from __future__ import annotations

from dataclasses import dataclass

from avs.datasets import DataConfig
from avs.errors import ConfigError
from avs.scale import ScaleConfig

__all__ = ["PrepareConfig"]


@dataclass(kw_only=True, slots=True)
class PrepareConfig:
    """``out`` gets shards of ``shard_clips`` clips, ``rejects.parquet`` and ``manifest.json``."""

    data: DataConfig
    scale: ScaleConfig
    out: str
    shard_clips: int

    def __post_init__(self) -> None:
        if self.shard_clips < 1:
            raise ConfigError(f"shard_clips={self.shard_clips} must be at least 1.")
