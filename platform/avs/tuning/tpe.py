"""The TPE sampler of Optuna (Bergstra et al., NeurIPS 2011), also for two objectives.

A study is made anew for each proposal and told every trial so far: milliseconds against minutes of
training, and no database that could disagree with the trial folders. Trials that were stopped early
are told as pruned, with their scores epoch by epoch; running ones as running, so that trials side
by side do not try the same; failed ones as failed. Optuna is imported when it is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from avs.errors import ConfigError
from avs.tuning.config import Objective, SearchConfig
from avs.tuning.records import Status, TrialRecord
from avs.tuning.space import Dimension, Space

__all__ = ["check_installed", "propose_tpe"]

_LEAST_RANDOM, _MOST_RANDOM = 3, 10


def check_installed() -> None:
    """Raise ConfigError where Optuna is missing."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "search.sampler=tpe needs Optuna, which is not installed: pip install optuna, or "
            "search.sampler=random."
        )


def propose_tpe(
    space: Space, search: SearchConfig, *, seed: int, records: Sequence[TrialRecord]
) -> dict[str, Any]:
    """Values by key for the trial after ``records``."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own_seed = int(np.random.default_rng([seed, len(records)]).integers(2**31))
    sampler = optuna.samplers.TPESampler(seed=own_seed, n_startup_trials=num_random(search))
    several = len(search.objectives) > 1
    directions = [_direction(objective) for objective in search.objectives]
    study = optuna.create_study(sampler=sampler, directions=directions)
    for record in records:
        study.add_trial(_told(space, record, search.objectives, several=several))
    trial = study.ask()
    return space.walk(lambda dimension: _suggest(trial, dimension))


def num_random(search: SearchConfig) -> int:
    """How many trials are drawn before TPE models anything: a quarter of a small sweep."""
    if search.num_trials is None:
        return _MOST_RANDOM
    return min(_MOST_RANDOM, max(_LEAST_RANDOM, search.num_trials // 4))


def _direction(objective: Objective) -> Any:
    return "minimize" if objective is Objective.LATENCY else "maximize"


def _suggest(trial: Any, dimension: Dimension) -> Any:
    if dimension.choice is not None:  # by place: values may be lists, which Optuna cannot hold
        places = list(range(len(dimension.choice)))
        return dimension.choice[trial.suggest_categorical(dimension.key, places)]
    low, high = dimension.values()
    if dimension.is_whole:
        return trial.suggest_int(dimension.key, low, high, log=dimension.is_log)
    return trial.suggest_float(dimension.key, low, high, log=dimension.is_log)


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions as known

    if dimension.choice is not None:
        return known.CategoricalDistribution(list(range(len(dimension.choice))))
    low, high = dimension.values()
    if dimension.is_whole:
        return known.IntDistribution(low, high, log=dimension.is_log)
    return known.FloatDistribution(low, high, log=dimension.is_log)


def _told(
    space: Space, record: TrialRecord, objectives: Sequence[Objective], *, several: bool
) -> Any:
    """A trial as Optuna knows it."""
    from optuna.trial import TrialState, create_trial

    used = [d for d in space.dimensions if d.key in record.values]
    places = {
        d.key: record.values[d.key] if d.choice is None else d.choice.index(record.values[d.key])
        for d in used
    }
    about: dict[str, Any] = {
        "params": places,
        "distributions": {d.key: _distribution(d) for d in used},
    }
    if record.status is Status.FAILED:
        return create_trial(state=TrialState.FAIL, **about)
    if record.status is Status.FINISHED:
        scores = [record.score(objective) for objective in objectives]
        return create_trial(state=TrialState.COMPLETE, values=scores, **about)
    if record.status is Status.STOPPED and not several:
        curve = {int(epoch["epoch"]): float(epoch["val_j"]) for epoch in record.history}
        return create_trial(state=TrialState.PRUNED, intermediate_values=curve, **about)
    return create_trial(state=TrialState.RUNNING, **about)
