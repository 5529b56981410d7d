"""The ``train`` section of ``jobs/benchmark.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from avs.errors import ConfigError

__all__ = ["TrainStageConfig"]

_QUICK_CLIPS = 32


@dataclass(kw_only=True, slots=True)
class TrainStageConfig:
    """Stage ``train``: ``jobs/train.py`` beside bare scripts that train the same.

    ``overrides`` are given to ``jobs/train.py``; the bare scripts follow what they make. ``cases``
    keeps only some (null: all). ``prepared`` is a local folder of ``jobs/prepare.py``; null:
    ``num_clips`` synthetic train clips of ``image_size_px`` are made below ``out``, once.
    Case ``scaling``: clips/s with each number of ``workers``, beside a DDP loop under torchrun on
    the same cores, over ``epochs`` epochs of which the first does not count. The loop reads with
    ``loader_processes`` a rank (0: within the step).
    Case ``start``: one epoch on the clips of one shard with ``start_workers`` and, beside
    ``overrides``, ``start_overrides``, beside a bare TorchTrainer.
    """

    num_clips: int
    image_size_px: int
    overrides: list[str]
    workers: list[int]
    epochs: int
    loader_processes: int
    start_workers: int
    start_overrides: list[str]
    prepared: str | None = None
    cases: list[str] | None = None

    def __post_init__(self) -> None:
        for key, least in (("num_clips", 1), ("epochs", 2), ("start_workers", 1)):
            if getattr(self, key) < least:
                raise ConfigError(f"train.{key}={getattr(self, key)} must be at least {least}.")
        if self.loader_processes < 0:
            raise ConfigError(f"train.loader_processes={self.loader_processes}: 0 or more.")
        if self.image_size_px < 32 or self.image_size_px % 32:
            raise ConfigError(f"train.image_size_px={self.image_size_px}: a multiple of 32.")
        if not self.workers or min(self.workers) < 1 or len({*self.workers}) < len(self.workers):
            raise ConfigError(f"train.workers={self.workers}: one or more, each once and above 0.")
        if self.prepared is not None and "://" in self.prepared:
            raise ConfigError(f"train.prepared={self.prepared}: the bare scripts read local files.")

    def quick(self) -> TrainStageConfig:
        """The same on a handful of clips."""
        return replace(self, num_clips=min(self.num_clips, _QUICK_CLIPS), epochs=2)
