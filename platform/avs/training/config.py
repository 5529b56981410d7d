"""Configuration of ``jobs/train.py``."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

from avs.errors import ConfigError
from avs.losses import LossConfig
from avs.models.audio import AUDIO_NETWORKS
from avs.models.config import ModelConfig
from avs.models.registry import NeedsBatch, model_options
from avs.scale import ScaleConfig
from avs.training.logging_config import LoggingConfig
from avs.training.loop_config import JitterEach, LoopConfig, Precision, Schedule

__all__ = [
    "CheckpointConfig",
    "Feed",
    "InferenceConfig",
    "JitterEach",
    "LoggingConfig",
    "LoopConfig",
    "MixtureConfig",
    "Precision",
    "PreparedConfig",
    "Schedule",
    "TrainConfig",
]


@dataclass(kw_only=True, slots=True)
class PreparedConfig:
    """A folder written by ``jobs/prepare.py`` (local or ``s3://``)."""

    prepared: str


class Feed(enum.Enum):
    """Who reads the clips: a thread of each worker, or Ray Data with CPUs that training leaves."""

    THREADS = "threads"
    RAY = "ray"


@dataclass(kw_only=True, slots=True)
class MixtureConfig:
    """What to train on: a folder written by ``jobs/prepare.py``, or a list of them.

    The clips of several folders are one set, each once an epoch; their classes, their number of
    frames and their sound must be of one kind, their sizes too unless ``train.image_size_px`` says
    one. ``weights``, one a folder, says how often a clip of it is seen in an epoch, on average:
    2 is twice, 0.5 every other epoch. An epoch has the sum of weight x clips. ``feed`` says who
    reads them; which they are does not depend on it.
    """

    prepared: list[str] | str
    weights: list[float] | None = None
    feed: Feed = Feed.THREADS

    def __post_init__(self) -> None:
        folders = self.folders
        again = sorted({folder for folder in folders if folders.count(folder) > 1})
        if not folders:
            raise ConfigError("data.prepared=[] names no folder: give one or more.")
        if again:
            raise ConfigError(f"data.prepared names {again[0]} more than once: give it once.")
        self._check_weights()

    def _check_weights(self) -> None:
        given, folders = self.weights, self.folders
        if given is None:
            return
        if len(given) != len(folders):
            raise ConfigError(
                f"data.weights={given} has {len(given)} values, data.prepared names "
                f"{len(folders)} folders: give one a folder."
            )
        if not all(0 < weight < math.inf for weight in given):
            raise ConfigError(
                f"data.weights={given}: each above 0; leave a folder out of data.prepared instead."
            )

    def check_bare(self, job: str) -> None:
        """Raise ConfigError where the bare training loop, as ``job`` runs it, cannot follow."""
        if self.feed is not Feed.THREADS:
            raise ConfigError(
                f"data.feed={self.feed.value}: {job} trains each trial in one process that reads "
                "by itself; give data.feed=threads."
            )

    @property
    def folders(self) -> list[str]:
        """All folders, in order."""
        return [self.prepared] if isinstance(self.prepared, str) else list(self.prepared)

    def map_folders(self, change: Callable[[str], str]) -> MixtureConfig:
        """The same with ``change`` applied to every folder."""
        changed = [change(folder) for folder in self.folders]
        prepared = changed[0] if isinstance(self.prepared, str) else changed
        return replace(self, prepared=prepared)


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
    """A checkpoint is written after every epoch, and after every ``every_steps`` optimiser steps of
    the run (null: epochs only). The last one stays, and those of the ``keep_best`` epochs with the
    highest validation J.

    ``self_contained`` false: name and hash of the frozen audio weights instead of the weights,
    which are then read from ``model.audio_weights`` wherever the checkpoint is used.
    """

    self_contained: bool = True
    every_steps: int | None = None
    keep_best: int = 1

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ConfigError(f"checkpoint.every_steps={self.every_steps}: at least 1, or null.")
        if self.keep_best < 1:
            raise ConfigError(f"checkpoint.keep_best={self.keep_best} must be at least 1.")


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
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        self._check_checkpoint()
        options = model_options(self.model.name, self.model.options)
        if isinstance(options, NeedsBatch):
            least = self.scale.min_workers or self.scale.num_workers
            options.check_batch(self.train.batch_size * least)
        if self.train.precision is Precision.FP16 and not self.scale.gpus_per_worker:
            raise ConfigError(
                "train.precision=fp16 needs GPUs (its loss scaling is for them), "
                "scale.gpus_per_worker is 0: give scale=gpu, or train.precision=bf16, which a CPU "
                "computes too and which needs no scaling."
            )
        if self.train.sync_batch_norm and not self.scale.gpus_per_worker:
            raise ConfigError(
                "train.sync_batch_norm=true needs GPUs (torch has no such layer for the CPU), "
                "scale.gpus_per_worker is 0: give scale=gpu, or train.sync_batch_norm=false and "
                "one worker with the whole batch, which has the same statistics."
            )

    def map_paths(self, change: Callable[[str], str]) -> Self:
        """The same with ``change`` applied to every folder and file.

        ``storage.absolute`` before workers start: Ray gives each of them a folder of its own.
        """
        start = self.train.init_from
        return replace(
            self,
            out=change(self.out),
            data=self.data.map_folders(change),
            model=self.model.map_files(change),
            train=replace(self.train, init_from=None if start is None else change(start)),
        )

    def _check_checkpoint(self) -> None:
        frozen = not AUDIO_NETWORKS[self.model.audio_network].build.trainable
        if self.checkpoint.self_contained or not frozen or self.model.audio_weights != "random":
            return
        raise ConfigError(
            "checkpoint.self_contained=false with model.audio_weights=random: the weights would be "
            "lost with the run. Give the file of the weights, or checkpoint.self_contained=true."
        )
