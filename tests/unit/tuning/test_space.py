"""The search space: what a dimension may be, and where its value goes."""

from __future__ import annotations

from typing import Any

import pytest

from avs.errors import ConfigError
from avs.tuning.config import SearchConfig
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
    ],
)
def test_one_range_is_a_dimension(given: dict[str, Any]) -> None:
    Dimension(key="train.learning_rate", **given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "exactly one of choice, uniform, loguniform .got none"),
        ({"choice": [1], "uniform": [0.0, 1.0]}, "got choice, uniform"),
        ({"choice": []}, "choice is empty"),
        ({"uniform": []}, r"uniform=\[\] must be"),
        ({"loguniform": []}, r"loguniform=\[\] must be"),
        ({"uniform": [1.0]}, r"uniform=\[1\.0\] must be \[low, high\]"),
        ({"uniform": [2.0, 1.0]}, r"uniform=\[2\.0, 1\.0\] must be"),
        ({"uniform": [1.0, 1.0]}, "must be"),
        ({"uniform": [0.0, 1.0, 2.0]}, "must be"),
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
