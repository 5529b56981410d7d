"""The ``segment`` section of ``jobs/benchmark.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from avs.errors import ConfigError
from avs.inference.outputs import OutputKind

__all__ = ["SegmentStageConfig"]


@dataclass(kw_only=True, slots=True)
class SegmentStageConfig:
    """Stage ``segment``: ``jobs/segment.py`` beside a loop with the same Predictor.

    ``models`` are files of configs/model, whose networks get random weights and run with
    ``num_threads`` in each process; ``outputs`` are those of the job.
    """

    models: list[str]
    num_threads: int
    outputs: list[OutputKind]

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("segment.models=[]: one or more of configs/model.")
        if not self.outputs:
            raise ConfigError("segment.outputs=[]: one or more, as those of jobs/segment.py.")
        if self.num_threads < 1:
            raise ConfigError(f"segment.num_threads={self.num_threads} must be at least 1.")

    def quick(self) -> SegmentStageConfig:
        """The same with the first model."""
        return replace(self, models=self.models[:1])
