"""Configuration of ``jobs/tune.py``: a training configuration, a space, a budget.

What is worth searching differs from model to model, so a space belongs to a model; one given by
hand goes first. A space that does not fit is refused here, before any trial starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from avs.config import build, dump
from avs.errors import ConfigError
from avs.training.config import TrainConfig
from avs.tuning.space import Dimension, apply

__all__ = ["SearchConfig", "TuneConfig"]

OTHER_MODELS = "other"


@dataclass(kw_only=True, slots=True)
class SearchConfig:
    """``num_trials`` random trials of at most ``train.epochs`` epochs.

    After ``grace_epochs`` epochs, and then at each ``reduction_factor``-fold of it, only the best
    1 / ``reduction_factor`` of the trials that got there go on (ASHA).
    ``space`` is what is searched; where it is null, the one of ``spaces`` under ``model.name``, or
    under "other" for a model that has none there.
    """

    num_trials: int
    grace_epochs: int
    reduction_factor: int
    space: list[Dimension] | None = None
    spaces: dict[str, list[Dimension]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, least in (("num_trials", 1), ("grace_epochs", 1), ("reduction_factor", 2)):
            if getattr(self, key) < least:
                raise ConfigError(f"search.{key}={getattr(self, key)} must be at least {least}.")
        named = {f"search.spaces.{name}": space for name, space in self.spaces.items()}
        for key, space in {"search.space": self.space, **named}.items():
            if space is not None and not space:
                raise ConfigError(f"{key}=[] has nothing to search.")

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
    """What trials vary, and ``search``; ``scale.num_workers`` trials run side by side."""

    search: SearchConfig

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        base = dump(self.trial_config())
        for dimension in self.space():
            for value in dimension.values():
                _check_value(base, dimension.key, value)

    def space(self) -> list[Dimension]:
        """What is searched."""
        return self.search.space_of(self.model.name)

    def train_config(self) -> TrainConfig:
        """The training configuration that trials vary."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})

    def trial_config(self) -> TrainConfig:
        """The same for a trial, which is a single worker."""
        return replace(self.train_config(), scale=replace(self.scale, num_workers=1))


def _check_value(base: dict[str, object], key: str, value: object) -> None:
    try:
        build(TrainConfig, apply(base, {key: value}), path="")
    except ConfigError as error:
        told = str(error)
        raise ConfigError(told if key in told else f"space {key}={value}: {told}") from error
