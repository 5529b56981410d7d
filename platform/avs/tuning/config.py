"""Configuration of ``jobs/tune.py``: a training configuration, a space, a budget.

What is worth searching differs from model to model, so a space belongs to a model; one given by
hand goes first. A space that does not fit is refused here, before any trial starts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields, replace
from typing import Any

from avs.config import build, dump
from avs.errors import ConfigError
from avs.losses import LossKind
from avs.training.config import TrainConfig
from avs.tuning.space import Dimension, Space, apply

__all__ = ["Objective", "Sampler", "SearchConfig", "TuneConfig"]

OTHER_MODELS = "other"


class Sampler(enum.Enum):
    """How values are chosen: by chance, all of them, or by what was good so far (Optuna's TPE)."""

    RANDOM = "random"
    GRID = "grid"
    TPE = "tpe"


class Objective(enum.Enum):
    """What is searched for: the highest validation J, the shortest forward of one clip."""

    J = "j"
    LATENCY = "latency"


@dataclass(kw_only=True, slots=True)
class SearchConfig:
    """A budget of ``num_trials`` trials of at most ``train.epochs`` epochs, or of ``max_seconds``
    over all starts of a sweep, or both; null = no such limit (a grid ends by itself).

    After ``grace_epochs`` epochs, and then at each ``reduction_factor``-fold of it, only the best
    1 / ``reduction_factor`` of the trials that got there go on (ASHA). With two ``objectives``, [j,
    latency], all trials are trained to the end, because J alone may not end a fast one.
    ``max_concurrent_trials`` null: as many as the cluster has room for, of
    ``scale.cpus_per_worker`` and ``scale.gpus_per_worker`` each.
    A trial that fails is tried again up to ``max_failures`` times in a row, from its last epoch;
    an epoch more, and they are forgotten.
    ``try_default``: the first trial is the configuration as it is (not of a grid).
    ``space`` is what is searched; where it is null, the one of ``spaces`` under ``model.name``, or
    under "other" for a model that has none there.
    """

    num_trials: int | None
    grace_epochs: int
    reduction_factor: int
    sampler: Sampler = Sampler.RANDOM
    objectives: list[Objective] = field(default_factory=lambda: [Objective.J])
    max_seconds: float | None = None
    max_failures: int = 1
    max_concurrent_trials: int | None = None
    try_default: bool = True
    space: list[Dimension] | None = None
    spaces: dict[str, list[Dimension]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {"num_trials": 1, "grace_epochs": 1, "reduction_factor": 2}
        least |= {"max_failures": 0, "max_concurrent_trials": 1}
        for key, lowest in least.items():
            value = getattr(self, key)
            if value is not None and value < lowest:
                raise ConfigError(f"search.{key}={value} must be at least {lowest}.")
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise ConfigError(f"search.max_seconds={self.max_seconds} must be above 0.")
        if self.num_trials is None and self.max_seconds is None and self.sampler != Sampler.GRID:
            raise ConfigError(
                "search.num_trials=null and search.max_seconds=null: the search would never end, "
                "give one."
            )
        if self.objectives not in ([Objective.J], [Objective.J, Objective.LATENCY]):
            told = ", ".join(objective.value for objective in self.objectives)
            raise ConfigError(f"search.objectives=[{told}] must be [j] or [j, latency].")
        self._check_spaces()

    def _check_spaces(self) -> None:
        named = {f"search.spaces.{name}": space for name, space in self.spaces.items()}
        for key, space in {"search.space": self.space, **named}.items():
            if space is not None and not space:
                raise ConfigError(f"{key}=[] has nothing to search.")

    @property
    def with_latency(self) -> bool:
        """Whether trials measure their forward."""
        return Objective.LATENCY in self.objectives

    def space_of(self, model: str) -> list[Dimension]:
        """What is searched for ``model``. Raises ConfigError where nothing is given."""
        found = self.space or self.spaces.get(model) or self.spaces.get(OTHER_MODELS)
        if found is None:
            known = ", ".join(self.spaces) or "none"
            raise ConfigError(
                f"search.spaces has no space for model.name={model} (there: {known}): give "
                f"search.space, search.spaces.{model} or search.spaces.{OTHER_MODELS}"
            )
        return found


@dataclass(kw_only=True, slots=True)
class TuneConfig(TrainConfig):
    """What trials vary, and ``search``. A trial is one worker of ``scale``."""

    search: SearchConfig

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        self.data.check_bare("a sweep")
        if self.logging.mlflow is not None:
            raise ConfigError(
                f"logging.mlflow={self.logging.mlflow}: the trials of a sweep send nothing; "
                "give it to the training of best.yaml."
            )
        space = self.full_space()
        for dimension in self.space():
            beside = space.witness(dimension)
            if space.is_active(dimension, beside):
                for value in dimension.values():
                    self._check_value(dimension.key, value, beside=beside)

    def space(self) -> list[Dimension]:
        """What is searched."""
        return self.search.space_of(self.model.name)

    def for_data(self, *, semantic: bool) -> TuneConfig:
        """The same with the loss of the data, which conditions of a space may ask for."""
        kind = LossKind.SEMANTIC if semantic else LossKind.BINARY
        return replace(self, loss=replace(self.loss, kind=kind))

    def full_space(self) -> Space:
        """The same over the configuration of a trial."""
        return Space(self.space(), dump(self.trial_config()))

    def train_config(self) -> TrainConfig:
        """The training configuration that trials vary."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})

    def trial_config(self) -> TrainConfig:
        """The same for a trial, which is a single worker."""
        return replace(self.train_config(), scale=self.scale.one_worker)

    def with_values(self, values: dict[str, Any], *, out: str) -> TrainConfig:
        """A trial's configuration. Raises ConfigError for values that do not go together."""
        plain = apply(dump(self.trial_config()), {**values, "out": out})
        built: TrainConfig = build(TrainConfig, plain, path="")
        return built

    def _check_value(self, key: str, value: Any, *, beside: dict[str, Any]) -> None:
        try:
            self.with_values({**beside, key: value}, out=self.out)
        except ConfigError as error:
            told = str(error)
            raise ConfigError(told if key in told else f"space {key}={value}: {told}") from error
