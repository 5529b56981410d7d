"""What each sampler proposes, and that nothing but the trials so far decides it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from made_sweeps import record, space_of

from avs.errors import ConfigError
from avs.tuning.config import Objective, Sampler, SearchConfig
from avs.tuning.records import Status, TrialRecord
from avs.tuning.sampling import grid_points, num_grid_points, propose, random_values
from avs.tuning.tpe import check_installed

SHAPE = {"key": "shape", "choice": [[1, 2], [3]]}
RATE = {"key": "rate", "loguniform": [1e-4, 1e-1]}
DEPTH = {"key": "depth", "int": [1, 3], "when": {"shape": [[3]]}}
SPACE = space_of(SHAPE, DEPTH, RATE)


def search(sampler: Sampler, **changes: Any) -> SearchConfig:
    values = {"num_trials": 20, "grace_epochs": 1, "reduction_factor": 2, "try_default": False}
    return SearchConfig(sampler=sampler, **{**values, **changes})


def test_random_trials_depend_on_seed_and_number_only() -> None:
    drawn = [random_values(SPACE, seed=1, number=k) for k in range(200)]
    assert drawn[7] == random_values(SPACE, seed=1, number=7)
    assert drawn[7] != random_values(SPACE, seed=2, number=7)
    before = [record(k, {}, [0.5]) for k in range(7)]
    assert propose(SPACE, search(Sampler.RANDOM), seed=1, records=before) == drawn[7]
    assert all(("depth" in values) is (values["shape"] == [3]) for values in drawn)
    assert 70 < sum(values["shape"] == [3] for values in drawn) < 130
    assert 70 < sum(values["rate"] < 10**-2.5 for values in drawn) < 130
    assert {values["depth"] for values in drawn if "depth" in values} == {1, 2, 3}


def test_a_grid_has_each_combination_once_the_last_changing_first() -> None:
    tail = {"key": "tail", "choice": ["a", "b"]}
    space = space_of(SHAPE, DEPTH, tail)
    points = [
        {"shape": [1, 2], "tail": "a"},
        {"shape": [1, 2], "tail": "b"},
        *({"shape": [3], "depth": d, "tail": t} for d in (1, 2, 3) for t in "ab"),
    ]
    assert list(grid_points(space)) == points
    assert num_grid_points(space) == 8
    given: list[TrialRecord] = []
    while (values := propose(space, search(Sampler.GRID), seed=0, records=given)) is not None:
        given.append(record(len(given), values))
    assert [made.values for made in given] == points


def test_a_grid_over_a_range_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"space rate: a grid cannot .*search\.sampler=random"):
        grid_points(SPACE)


@pytest.mark.parametrize("sampler", [Sampler.RANDOM, Sampler.TPE])
def test_the_first_trial_is_the_configuration_as_it_is(sampler: Sampler) -> None:
    space = space_of(SHAPE, RATE, shape=[3], rate=0.02)
    wanted = search(sampler, try_default=True)
    assert propose(space, wanted, seed=0, records=[]) == {"shape": [3], "rate": 0.02}
    second = propose(space, wanted, seed=0, records=[record(0, {}, [0.5])])
    assert second not in ({"shape": [3], "rate": 0.02}, None)


def told(number: int, *, worst: bool = False) -> TrialRecord:
    """A trial whose J is high for shape [3] and a rate near 1e-2."""
    values = random_values(SPACE, seed=3, number=number)
    near = 1.0 - abs(_exponent(values["rate"]) + 2.0) / 3.0
    score = 0.5 * near + (0.4 if values["shape"] == [3] else 0.0)
    return record(number, values, [1.0 - score if worst else score])


def _exponent(rate: float) -> float:
    import math

    return math.log10(rate)


def test_tpe_goes_where_it_was_good() -> None:
    wanted = search(Sampler.TPE)
    good = [told(k) for k in range(30)]
    bad = [told(k, worst=True) for k in range(30)]
    near, away = (
        [propose(SPACE, wanted, seed=s, records=given) or {} for s in range(15)]
        for given in (good, bad)
    )
    assert sum(values["shape"] == [3] for values in near) >= 13
    assert sum(values["shape"] == [3] for values in away) <= 2
    assert sum(-3 < _exponent(values["rate"]) < -1 for values in near) >= 12
    assert all(("depth" in values) is (values["shape"] == [3]) for values in near)


def test_tpe_is_a_function_of_the_trials_so_far() -> None:
    given = [told(k) for k in range(8)]
    given[2].status, given[3].status, given[4].status = (
        Status.STOPPED,
        Status.FAILED,
        Status.UNFINISHED,
    )
    one, other = (propose(SPACE, search(Sampler.TPE), seed=5, records=given) for _ in range(2))
    assert one == other
    assert one != propose(SPACE, search(Sampler.TPE), seed=5, records=given[:7])


def test_tpe_with_two_objectives_weighs_the_latency() -> None:
    """J says nothing here: only the latency tells the shapes apart."""
    both = [Objective.J, Objective.LATENCY]
    given = [
        record(k, {"shape": shape}, [0.5], latency_s=slow)
        for k, (shape, slow) in enumerate([([1, 2], 0.2), ([3], 0.1)] * 10)
    ]
    wanted = search(Sampler.TPE, objectives=both)
    space = space_of(SHAPE)
    found = [propose(space, wanted, seed=s, records=given) for s in range(12)]
    assert sum(values == {"shape": [3]} for values in found) >= 9


def test_without_optuna_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install optuna, or search\.sampler=random"):
        check_installed()
