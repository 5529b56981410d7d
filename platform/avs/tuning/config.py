"""Configuration of ``jobs/tune.py``: a training configuration, a space, a budget."""

from __future__ import annotations

from dataclasses import dataclass, fields

from avs.errors import ConfigError
from avs.training.config import TrainConfig
from avs.tuning.space import Dimension

__all__ = ["SearchConfig", "TuneConfig"]


@dataclass(kw_only=True, slots=True)
class SearchConfig:
    """``num_trials`` random trials of at most ``train.epochs`` epochs.

    After ``grace_epochs`` epochs, and then at each ``reduction_factor``-fold of it, only the best
    1 / ``reduction_factor`` of the trials that got there go on (ASHA).
    """

    num_trials: int
    grace_epochs: int
    reduction_factor: int
    space: list[Dimension]

    def __post_init__(self) -> None:
        for key, least in (("num_trials", 1), ("grace_epochs", 1), ("reduction_factor", 2)):
            if getattr(self, key) < least:
                raise ConfigError(f"search.{key}={getattr(self, key)} must be at least {least}.")
        if not self.space:
            raise ConfigError("search.space=[] has nothing to search.")


@dataclass(kw_only=True, slots=True)
class TuneConfig(TrainConfig):
    """What trials vary, and ``search``; ``scale.num_workers`` trials run side by side."""

    search: SearchConfig

    def train_config(self) -> TrainConfig:
        """The training configuration that trials vary."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})
