"""How much of the machine or cluster a job takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from avs.errors import ConfigError

__all__ = ["ScaleConfig"]


@dataclass(kw_only=True, slots=True)
class ScaleConfig:
    """Workers of a job (training ranks, segmenters, parallel trials) and what each one takes.

    ``min_workers`` lets a training go on with as few while the cluster has no room for
    ``num_workers``, and grow again when it has; steps stay those of ``num_workers`` (null: it waits
    for all of them). Each change goes on from the last checkpoint. Other jobs take no notice of it.
    ``autoscaling``: the cluster adds nodes when asked, so what it lacks now is told and waited for;
    without, a job that the cluster cannot hold is refused.
    """

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    min_workers: int | None = None
    autoscaling: bool = False

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError(f"scale.num_workers={self.num_workers} must be at least 1.")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ConfigError(
                f"scale.min_workers={self.min_workers}: between 1 and scale.num_workers="
                f"{self.num_workers}, or null."
            )
        for key in ("cpus_per_worker", "gpus_per_worker"):
            if getattr(self, key) < 0:
                raise ConfigError(f"scale.{key}={getattr(self, key)} must not be negative.")

    @property
    def one_worker(self) -> ScaleConfig:
        """Of a job that takes a single worker."""
        return replace(self, num_workers=1, min_workers=None)

    @property
    def device(self) -> str:
        """Where models run: ``cuda`` when workers have a GPU, else ``cpu``."""
        return "cuda" if self.gpus_per_worker else "cpu"
