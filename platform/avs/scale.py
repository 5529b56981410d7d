"""How much of the machine or cluster a job takes."""

from __future__ import annotations

from dataclasses import dataclass

from avs.errors import ConfigError

__all__ = ["ScaleConfig"]


@dataclass(kw_only=True, slots=True)
class ScaleConfig:
    """Workers of a job (training ranks, segmenters, parallel trials) and what each one takes."""

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError(f"scale.num_workers={self.num_workers} must be at least 1.")
        for key in ("cpus_per_worker", "gpus_per_worker"):
            if getattr(self, key) < 0:
                raise ConfigError(f"scale.{key}={getattr(self, key)} must not be negative.")

    @property
    def device(self) -> str:
        """Where models run: ``cuda`` when workers have a GPU, else ``cpu``."""
        return "cuda" if self.gpus_per_worker else "cpu"
