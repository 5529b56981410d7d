"""Configuration of ``jobs/train.py``."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from avs.errors import ConfigError
from avs.losses import LossConfig
from avs.models.config import ModelConfig
from avs.scale import ScaleConfig

__all__ = [
    "InferenceConfig",
    "LoopConfig",
    "Precision",
    "PreparedConfig",
    "Schedule",
    "TrainConfig",
]


class Schedule(enum.Enum):
    """Learning rate over the steps of a run."""

    CONSTANT = "constant"
    COSINE = "cosine"


class Precision(enum.Enum):
    """Arithmetic of the forward pass; ``bf16`` is autocast."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(kw_only=True, slots=True)
class PreparedConfig:
    """A folder written by ``jobs/prepare.py`` (local or ``s3://``)."""

    prepared: str


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """The optimisation. ``batch_size`` counts clips on each worker.

    ``image_size_px`` resizes the prepared frames (null: as prepared). ``flip`` mirrors half of the
    clips. ``num_threads`` is what each worker computes with. The audio network, where it is
    trained, learns at ``audio_learning_rate_factor`` times the learning rate.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    schedule: Schedule
    precision: Precision
    flip: bool
    image_size_px: int | None
    num_threads: int
    audio_learning_rate_factor: float = 1.0

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "num_threads"):
            if getattr(self, key) < 1:
                raise ConfigError(f"train.{key}={getattr(self, key)} must be at least 1.")
        if self.learning_rate <= 0:
            raise ConfigError(f"train.learning_rate={self.learning_rate} must be positive.")
        if self.audio_learning_rate_factor <= 0:
            value = self.audio_learning_rate_factor
            raise ConfigError(f"train.audio_learning_rate_factor={value} must be positive.")
        if self.weight_decay < 0:
            raise ConfigError(f"train.weight_decay={self.weight_decay} must not be negative.")
        if self.image_size_px is not None and self.image_size_px < 32:
            raise ConfigError(f"train.image_size_px={self.image_size_px} must be at least 32.")


@dataclass(kw_only=True, slots=True)
class InferenceConfig:
    """The fixed compute shape that a checkpoint is run with (bit-equal masks everywhere)."""

    windows_per_forward: int
    num_threads: int

    def __post_init__(self) -> None:
        for key in ("windows_per_forward", "num_threads"):
            if getattr(self, key) < 1:
                raise ConfigError(f"inference.{key}={getattr(self, key)} must be at least 1.")


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Everything that a run depends on; saved whole in each checkpoint."""

    data: PreparedConfig
    model: ModelConfig
    loss: LossConfig
    train: LoopConfig
    inference: InferenceConfig
    scale: ScaleConfig
    seed: int
    out: str
