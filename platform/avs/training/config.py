"""Configuration of ``jobs/train.py``."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from avs.errors import ConfigError
from avs.losses import LossConfig
from avs.models.audio import AUDIO_NETWORKS
from avs.models.config import ModelConfig
from avs.models.registry import NeedsBatch, model_options
from avs.scale import ScaleConfig

__all__ = [
    "CheckpointConfig",
    "InferenceConfig",
    "LoopConfig",
    "MixtureConfig",
    "Precision",
    "PreparedConfig",
    "Schedule",
    "TrainConfig",
]


class Schedule(enum.Enum):
    """Learning rate over a run: cosine falls to 0 step by step, linear changes epoch by epoch."""

    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"


class Precision(enum.Enum):
    """Arithmetic of the forward pass; ``bf16`` is autocast."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(kw_only=True, slots=True)
class PreparedConfig:
    """A folder written by ``jobs/prepare.py`` (local or ``s3://``)."""

    prepared: str


@dataclass(kw_only=True, slots=True)
class MixtureConfig:
    """What to train on: a folder written by ``jobs/prepare.py``, or a list of them.

    The clips of several folders are one set, each once an epoch; their classes, their number of
    frames and their sound must be of one kind, their sizes too unless ``train.image_size_px`` says
    one.
    """

    prepared: list[str] | str

    def __post_init__(self) -> None:
        folders = self.folders
        again = sorted({folder for folder in folders if folders.count(folder) > 1})
        if not folders:
            raise ConfigError("data.prepared=[] names no folder: give one or more.")
        if again:
            raise ConfigError(f"data.prepared names {again[0]} more than once: give it once.")

    @property
    def folders(self) -> list[str]:
        """All folders, in order."""
        return [self.prepared] if isinstance(self.prepared, str) else list(self.prepared)

    def map_folders(self, change: Callable[[str], str]) -> MixtureConfig:
        """The same with ``change`` applied to every folder."""
        changed = [change(folder) for folder in self.folders]
        return MixtureConfig(prepared=changed[0] if isinstance(self.prepared, str) else changed)


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """The optimisation: Adam, with decoupled weight decay where that is above 0 (AdamW).

    ``batch_size`` counts clips on each worker. ``image_size_px`` resizes the prepared frames (null:
    as prepared). ``num_threads`` is what each worker computes with. The audio network, where it is
    trained, learns at ``audio_learning_rate_factor`` times the learning rate, the visual backbone
    at ``backbone_learning_rate_factor`` times. For the first ``frozen_backbone_epochs`` epochs the
    backbone stays as it was loaded, batch-norm statistics included; for all of a run, give as many
    as ``epochs``.

    ``schedule`` linear goes from ``learning_rate`` to ``final_learning_rate`` in
    ``schedule_epochs`` equal steps, one an epoch, and stays there.
    ``flip`` mirrors half of the clips; ``color_jitter`` changes every frame by itself by up to
    [brightness, contrast, saturation, hue].
    ``sync_batch_norm`` takes batch-norm statistics over all workers instead of each on its own.
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
    backbone_learning_rate_factor: float = 1.0
    frozen_backbone_epochs: int = 0
    final_learning_rate: float | None = None
    schedule_epochs: int | None = None
    color_jitter: tuple[float, ...] | None = None
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "num_threads"):
            if getattr(self, key) < 1:
                raise ConfigError(f"train.{key}={getattr(self, key)} must be at least 1.")
        if self.learning_rate <= 0:
            raise ConfigError(f"train.learning_rate={self.learning_rate} must be positive.")
        for key in ("audio_learning_rate_factor", "backbone_learning_rate_factor"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"train.{key}={getattr(self, key)} must be positive.")
        for key in ("weight_decay", "frozen_backbone_epochs"):
            if getattr(self, key) < 0:
                raise ConfigError(f"train.{key}={getattr(self, key)} must not be negative.")
        if self.image_size_px is not None and self.image_size_px < 32:
            raise ConfigError(f"train.image_size_px={self.image_size_px} must be at least 32.")
        self._check_schedule()
        self._check_color_jitter()

    def _check_schedule(self) -> None:
        keys = ("final_learning_rate", "schedule_epochs")
        for key in keys:
            value = getattr(self, key)
            if (self.schedule is Schedule.LINEAR) != (value is not None):
                raise ConfigError(
                    f"train.{key}={value} with train.schedule={self.schedule.value}: "
                    f"linear needs {' and '.join(keys)}, the others take neither."
                )
            if value is not None and value <= 0:
                raise ConfigError(f"train.{key}={value} must be above 0.")

    def _check_color_jitter(self) -> None:
        strength = self.color_jitter
        if strength is None:
            return
        fits = len(strength) == 4 and all(0 <= s <= 1 for s in strength) and strength[3] <= 0.5
        if not fits:
            raise ConfigError(
                f"train.color_jitter={list(strength)}: [brightness, contrast, saturation, hue], "
                "each between 0 and 1, hue up to 0.5; null for none."
            )


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
class CheckpointConfig:
    """``self_contained`` false: name and hash of the frozen audio weights instead of the weights,
    which are then read from ``model.audio_weights`` wherever the checkpoint is used."""

    self_contained: bool = True


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Everything that a run depends on; saved whole in each checkpoint."""

    data: MixtureConfig
    model: ModelConfig
    loss: LossConfig
    train: LoopConfig
    inference: InferenceConfig
    scale: ScaleConfig
    seed: int
    out: str
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        self._check_checkpoint()
        options = model_options(self.model.name, self.model.options)
        if isinstance(options, NeedsBatch):
            options.check_batch(self.train.batch_size * self.scale.num_workers)
        if self.train.sync_batch_norm and not self.scale.gpus_per_worker:
            raise ConfigError(
                "train.sync_batch_norm=true needs GPUs (torch has no such layer for the CPU), "
                "scale.gpus_per_worker is 0: give scale=gpu, or train.sync_batch_norm=false and "
                "one worker with the whole batch, which has the same statistics."
            )

    def _check_checkpoint(self) -> None:
        frozen = not AUDIO_NETWORKS[self.model.audio_network].build.trainable
        if self.checkpoint.self_contained or not frozen or self.model.audio_weights != "random":
            return
        raise ConfigError(
            "checkpoint.self_contained=false with model.audio_weights=random: the weights would be "
            "lost with the run. Give the file of the weights, or checkpoint.self_contained=true."
        )
