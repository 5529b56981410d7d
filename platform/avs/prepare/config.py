"""Configuration of ``jobs/prepare.py``."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from avs.datasets import DataConfig
from avs.errors import ConfigError
from avs.scale import ScaleConfig

__all__ = [
    "AudioNetworkConfig",
    "FeaturesConfig",
    "FrozenNetworkConfig",
    "PrepareConfig",
    "Stage",
]


class Stage(enum.Enum):
    """What is prepared: clip rows, or what a frozen audio network makes of their sound."""

    CLIPS = "clips"
    FEATURES = "features"


@dataclass(kw_only=True, slots=True)
class AudioNetworkConfig:
    """A frozen audio network: its name and where its weights are, as ``jobs/train.py`` takes them;
    of stage ``features`` alone."""

    audio_network: str | None = None
    audio_weights: str | None = None


@dataclass(kw_only=True, slots=True)
class FrozenNetworkConfig:
    """The same, given."""

    audio_network: str
    audio_weights: str


@dataclass(kw_only=True, slots=True)
class PrepareConfig:
    """``out`` gets shards of ``shard_clips`` clips, ``rejects.parquet`` and ``manifest.json``.

    ``max_reject_ratio`` is the largest share of rejected clips, None for no limit.
    ``retry_rejects`` tries the rejected clips of earlier runs again. ``dry_run`` shows the plan
    and writes nothing. ``allow_leaks`` accepts a user's own splits that share clips.

    ``stage`` features takes only ``prepared``, the ``out`` of an earlier run, the audio network of
    ``model``, ``scale`` and ``dry_run``: it writes what the network makes of every clip below
    ``prepared``, which training on it then uses instead of the network.
    """

    data: DataConfig
    scale: ScaleConfig
    out: str
    shard_clips: int
    max_reject_ratio: float | None = None
    retry_rejects: bool = False
    dry_run: bool = False
    allow_leaks: bool = False
    stage: Stage = Stage.CLIPS
    prepared: str | None = None
    model: AudioNetworkConfig = field(default_factory=AudioNetworkConfig)

    def __post_init__(self) -> None:
        if self.shard_clips < 1:
            raise ConfigError(f"shard_clips={self.shard_clips} must be at least 1.")
        if self.max_reject_ratio is not None and not 0 <= self.max_reject_ratio <= 1:
            raise ConfigError(
                f"max_reject_ratio={self.max_reject_ratio} must be between 0 and 1, "
                "or null for no limit."
            )
        self._check_stage()

    def _check_stage(self) -> None:
        """Keys of the other stage would be passed over in silence."""
        given = {
            "prepared": self.prepared,
            "model.audio_network": self.model.audio_network,
            "model.audio_weights": self.model.audio_weights,
        }
        for key, value in given.items():
            if value is not None:
                raise ConfigError(
                    f"{key}={value} belongs to stage=features, this is stage=clips: give "
                    "stage=features, or leave the key out."
                )


@dataclass(kw_only=True, slots=True)
class FeaturesConfig:
    """The keys of stage ``features``; see :class:`PrepareConfig`."""

    prepared: str
    model: FrozenNetworkConfig
    scale: ScaleConfig
    dry_run: bool = False
