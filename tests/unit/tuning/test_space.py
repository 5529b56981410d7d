"""The search space: what a dimension may be, and where its value goes."""

from __future__ import annotations

from typing import Any

import pytest
from made_sweeps import space_of

from avs.errors import ConfigError
from avs.tuning.config import Objective, SearchConfig
from avs.tuning.space import Dimension, apply

CONFIG = {
    "seed": 1,
    "train": {"learning_rate": 1e-3, "batch_size": 4},
    "model": {"name": "tpavi", "options": {"fusion_width": 32}},
}


@pytest.mark.parametrize(
    "given",
    [
        {"choice": [1]},
        {"choice": [[1, 2], [3]]},
        {"uniform": [0.0, 1.0]},
        {"uniform": [-1.0, 0.0]},
        {"loguniform": [1e-5, 1e-2]},
        {"int": [-1, 1]},
        {"logint": [1, 8]},
    ],
)
def test_one_range_is_a_dimension(given: dict[str, Any]) -> None:
    Dimension(key="train.learning_rate", **given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "exactly one of choice, int, logint, uniform, loguniform .got none"),
        ({"choice": [1], "uniform": [0.0, 1.0]}, "got choice, uniform"),
        ({"choice": []}, "choice is empty"),
        ({"uniform": []}, r"uniform=\[\] must be"),
        ({"loguniform": []}, r"loguniform=\[\] must be"),
        ({"uniform": [1.0]}, r"uniform=\[1\.0\] must be \[low, high\]"),
        ({"uniform": [2.0, 1.0]}, r"uniform=\[2\.0, 1\.0\] must be"),
        ({"uniform": [1.0, 1.0]}, "must be"),
        ({"uniform": [0.0, 1.0, 2.0]}, "must be"),
        ({"logint": [0, 4]}, r"logint=\[0, 4\] must be"),
        ({"int": [4, 1]}, r"int=\[4, 1\] must be"),
        ({"loguniform": [0.0, 1.0]}, r"loguniform=\[0\.0, 1\.0\] must be"),
    ],
)
def test_anything_else_is_refused_with_its_key(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"space train\.x: .*{reason}"):
        Dimension(key="train.x", **given)


def test_values_are_set_at_their_keys_in_a_copy() -> None:
    changed = apply(
        CONFIG,
        {"seed": 9, "train.learning_rate": 0.5, "model.options.fusion_stages": [3, 4]},
    )
    assert changed == {
        "seed": 9,
        "train": {"learning_rate": 0.5, "batch_size": 4},
        "model": {"name": "tpavi", "options": {"fusion_width": 32, "fusion_stages": [3, 4]}},
    }
    assert CONFIG["seed"] == 1
    assert CONFIG["model"] == {"name": "tpavi", "options": {"fusion_width": 32}}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("train.lr", r"lr is not known\. Known: learning_rate, batch_size"),
        ("optimizer.lr", "optimizer is not a group"),
        ("seed.x", "seed is not a group"),
        ("nothing", r"nothing is not known\. Known: seed, train, model"),
    ],
)
def test_a_key_that_is_not_there_is_named(key: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"space {key}: {reason}"):
        apply(CONFIG, {key: 1})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_trials": 0}, "search.num_trials=0 must be at least 1"),
        ({"grace_epochs": 0}, "search.grace_epochs=0 must be at least 1"),
        ({"reduction_factor": 1}, "search.reduction_factor=1 must be at least 2"),
        ({"space": []}, r"search.space=\[\] has nothing to search"),
    ],
)
def test_a_search_without_sense_is_refused(change: dict[str, Any], reason: str) -> None:
    values: dict[str, Any] = {"num_trials": 2, "grace_epochs": 1, "reduction_factor": 2}
    values["space"] = [Dimension(key="seed", choice=[1])]
    SearchConfig(**values)
    with pytest.raises(ConfigError, match=reason):
        SearchConfig(**{**values, **change})


def test_a_place_becomes_a_value_of_the_range() -> None:
    assert [Dimension(key="k", choice=["a", "b"]).at(p) for p in (0.0, 0.49, 0.5, 0.99)] == [
        *("a", "a", "b", "b")
    ]
    assert Dimension(key="k", uniform=[1.0, 3.0]).at(0.5) == 2.0
    assert Dimension(key="k", loguniform=[0.01, 1.0]).at(0.5) == pytest.approx(0.1)
    whole = [Dimension(key="k", int=[1, 4]).at(p / 1000) for p in range(1000)]
    assert [whole.count(value) for value in (1, 2, 3, 4)] == pytest.approx([250] * 4, abs=1)
    factors = [Dimension(key="k", logint=[1, 64]).at(p / 1000) for p in range(1000)]
    assert {min(factors), max(factors)} == {1, 64}
    assert 450 < sum(value <= 6 for value in factors) < 550  # half of the factors


@pytest.mark.parametrize(
    ("given", "inside", "outside"),
    [
        ({"choice": [[1, 2], [3]]}, [3], [1]),
        ({"int": [1, 4]}, 4, 2.5),
        ({"int": [0, 1]}, 1, True),
        ({"loguniform": [0.1, 1.0]}, 0.1, 0.05),
        ({"uniform": [0.0, 1.0]}, 1, None),
    ],
)
def test_a_dimension_knows_its_values(given: dict[str, Any], inside: Any, outside: Any) -> None:
    dimension = Dimension(key="k", **given)
    assert dimension.contains(inside)
    assert not dimension.contains(outside)
    assert 0 <= dimension.place(inside) <= 1


CONTRAST = {"key": "weight", "choice": [0.0, 0.1, 0.3]}
TEMPERATURE = {"key": "temperature", "loguniform": [0.01, 1.0], "when": {"weight": [0.1, 0.3]}}


def test_a_condition_holds_for_one_value_or_several() -> None:
    space = space_of(CONTRAST, TEMPERATURE)
    for weight, searched in ((0.0, False), (0.1, True), (0.3, True)):
        found = space.walk(lambda d, w=weight: w if d.key == "weight" else 0.5)  # type: ignore[misc]
        assert ("temperature" in found) is searched
    nested = (
        {"key": "s", "choice": [[1, 2], [3]]},
        {"key": "t", "int": [1, 2], "when": {"s": [[3]]}},
    )
    assert space_of(*nested).walk(lambda d: d.at(0.9)) == {"s": [3], "t": 2}
    assert space_of(*nested).walk(lambda d: d.at(0.0)) == {"s": [1, 2]}


def test_what_depends_on_something_left_out_is_left_out() -> None:
    third = {"key": "t", "int": [1, 2], "when": {"temperature": 0.5}}
    space = space_of(CONTRAST, TEMPERATURE, third)
    assert space.walk(lambda d: d.at(0.0)) == {"weight": 0.0}
    assert space.witness(space.dimensions[2]) == {"weight": 0.1, "temperature": 0.5}


def test_a_condition_on_a_key_that_is_not_searched_asks_the_configuration() -> None:
    dice = {"key": "dice", "choice": [1.0], "when": {"loss.kind": "binary"}}
    assert space_of(dice, loss={"kind": "binary"}).walk(lambda d: d.at(0.0)) == {"dice": 1.0}
    assert space_of(dice, loss={"kind": "semantic"}).walk(lambda d: d.at(0.0)) == {}


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        ((TEMPERATURE, CONTRAST), r"when\.weight=\[0\.1, 0\.3\]: that key is searched later"),
        ((CONTRAST, CONTRAST), "space weight: searched twice"),
        ((CONTRAST, {**TEMPERATURE, "when": {"weight": 0.2}}), r"0\.2 is none of \[0\.0, 0\.1"),
        ((TEMPERATURE,), "when.weight=.*: that key has no value: set it, or search it before"),
        (({"key": "a", "int": [1, 2], "when": {"a": 1}},), "that key is searched later"),
    ],
)
def test_a_condition_that_cannot_be_asked_is_refused(
    space: tuple[dict[str, Any], ...], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        space_of(*space)


def test_a_condition_without_values_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"space k: when\.a=\[\] never holds"):
        Dimension(key="k", int=[1, 2], when={"a": []})


def test_the_default_is_what_the_configuration_has_where_the_space_has_it() -> None:
    space = space_of(CONTRAST, TEMPERATURE, {"key": "n", "int": [1, 4]}, weight=0.1, n=9)
    assert space.default() == {"weight": 0.1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_seconds": 0}, r"search\.max_seconds=0 must be above 0"),
        ({"num_trials": None}, "the search would never end"),
        ({"max_failures": -1}, "search.max_failures=-1 must be at least 0"),
        ({"max_concurrent_trials": 0}, "search.max_concurrent_trials=0 must be at least 1"),
        ({"objectives": [Objective.LATENCY]}, r"search\.objectives=\[latency\] must be"),
        ({"objectives": [Objective.J, Objective.J]}, r"\[j, j\] must be \[j\] or \[j, latency\]"),
    ],
)
def test_a_budget_or_aim_without_sense_is_refused(change: dict[str, Any], reason: str) -> None:
    values: dict[str, Any] = {"num_trials": 2, "grace_epochs": 1, "reduction_factor": 2}
    with pytest.raises(ConfigError, match=reason):
        SearchConfig(**{**values, **change})
