"""Which model answers: the one asked for, else by shares."""

from __future__ import annotations

import random
from collections import Counter
from math import sqrt

import pytest

from avs.serving.choice import Choice
from avs.serving.messages import ApiError

NUM_REQUESTS = 20_000


def _counts(choice: Choice) -> Counter[str]:
    random.seed(7)
    return Counter(choice(None) for _ in range(NUM_REQUESTS))


@pytest.mark.parametrize(
    "shares", [{"canary": 0.05}, {"a": 0.25, "b": 0.25}, {"a": 0.1, "b": 0.2, "c": 0.7}]
)
def test_requests_are_spread_by_the_shares(shares: dict[str, float]) -> None:
    counts = _counts(Choice.among(shares))
    wanted = {"default": 1.0 - sum(shares.values()), **shares}
    for name, share in wanted.items():
        sigma = sqrt(NUM_REQUESTS * share * max(0.0, 1 - share))
        assert abs(counts[name] - NUM_REQUESTS * share) <= 4 * sigma + 1e-6, name
    assert sum(counts.values()) == NUM_REQUESTS


def test_without_shares_all_go_to_the_default() -> None:
    assert _counts(Choice.among({})) == {"default": NUM_REQUESTS}
    assert _counts(Choice.among({"other": 0.0})) == {"default": NUM_REQUESTS}


def test_a_share_of_one_takes_all() -> None:
    assert _counts(Choice.among({"next": 1.0})) == {"next": NUM_REQUESTS}
    tenths = {f"m{k}": 0.1 for k in range(10)}  # they add up to less than 1 in floating point
    assert sum(_counts(Choice.among(tenths)).values()) == NUM_REQUESTS


def test_the_model_asked_for_answers_whatever_its_share() -> None:
    choice = Choice.among({"canary": 0.0, "next": 1.0})
    for name in ("default", "canary", "next"):
        assert {choice(name) for _ in range(50)} == {name}


@pytest.mark.parametrize("name", ["", "Default", "canary ", "../default", "x" * 5000, "a\r\nb"])
def test_an_unknown_model_is_named_with_the_known_ones(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        Choice.among({"canary": 0.1})(name)
    error = caught.value
    assert (error.status, error.code) == (422, "unknown_model")
    assert error.message.endswith("Known: default, canary.")
    assert error.message.isprintable()
    assert len(error.message) < 200
