"""Configuration of ``jobs/prepare.py``."""

from __future__ import annotations

from dataclasses import dataclass

from avs.datasets import DataConfig
from avs.errors import ConfigError
from avs.scale import ScaleConfig

__all__ = ["PrepareConfig"]


@dataclass(kw_only=True, slots=True)
class PrepareConfig:
    """``out`` gets shards of ``shard_clips`` clips, ``rejects.parquet`` and ``manifest.json``.

    ``max_reject_ratio`` is the largest share of rejected clips, None for no limit.
    ``retry_rejects`` tries the rejected clips of earlier runs again. ``dry_run`` shows the plan
    and writes nothing. ``allow_leaks`` accepts a user's own splits that share clips.
    """

    data: DataConfig
    scale: ScaleConfig
    out: str
    shard_clips: int
    max_reject_ratio: float | None = None
    retry_rejects: bool = False
    dry_run: bool = False
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        if self.shard_clips < 1:
            raise ConfigError(f"shard_clips={self.shard_clips} must be at least 1.")
        if self.max_reject_ratio is not None and not 0 <= self.max_reject_ratio <= 1:
            raise ConfigError(
                f"max_reject_ratio={self.max_reject_ratio} must be between 0 and 1, "
                "or null for no limit."
            )
