"""Whose sound a clip gets."""

from __future__ import annotations

import numpy as np
import pytest

from avs.inference.conditions import Condition, choose_donors, sound_for
from avs.media.audio import silence_log_mel


def _ids(count: int) -> list[str]:
    return [f"x/y/{k}" for k in range(count)]


def test_without_categories_the_sound_comes_from_another_video() -> None:
    ids = [
        f"ms3/Multi-sources/{name}" for name in ("aaaaaaaaaaa_0", "aaaaaaaaaaa_1", "bbbbbbbbbbb_0")
    ]
    assert choose_donors([()] * 3, ids) == [2, 2, 0]
    assert choose_donors([("dog",), ("cat",), ("cat",)], ids) == [1, 0, 0]


def test_a_donor_shares_no_category_and_has_one_where_there_is_such_a_clip() -> None:
    rng = np.random.default_rng(0)
    kinds = ("dog", "cat", "bell", "car")
    clips = [tuple(rng.choice(kinds, rng.integers(0, 3), replace=False)) for _ in range(40)]
    donors = choose_donors(clips, _ids(len(clips)))
    assert len(donors) == 40
    for index, donor in enumerate(donors):
        assert donor != index
        assert clips[donor]
        assert not set(clips[donor]) & set(clips[index])


def test_the_donor_is_the_next_clip_that_fits_from_the_first_again() -> None:
    clips = [("a",), ("a", "b"), (), ("c",), ("a",)]
    assert choose_donors(clips, _ids(len(clips))) == [3, 3, 3, 4, 3]


def test_clips_of_one_kind_still_get_another_clips_sound() -> None:
    assert choose_donors([("dog",)] * 3, _ids(3)) == [1, 2, 0]
    assert choose_donors([()] * 3, _ids(3)) == [1, 2, 0]


def test_a_single_clip_keeps_its_own_sound_and_none_need_none() -> None:
    assert choose_donors([("dog",)], _ids(1)) == [0]
    assert choose_donors([], []) == []


@pytest.mark.parametrize("condition", list(Condition))
def test_each_condition_is_heard(condition: Condition) -> None:
    rng = np.random.default_rng(0)
    own, donor = rng.normal(size=(2, 5, 1, 96, 64)).astype(np.float32)
    wanted = {"true": own, "silent": silence_log_mel(5), "swapped": donor}[condition.value]
    assert np.array_equal(sound_for(condition, own, donor), wanted)
    own, donor = rng.integers(-9, 9, (2, 80000)).astype(np.int16)
    wanted = {"true": own, "silent": np.zeros(80000, np.int16), "swapped": donor}[condition.value]
    heard = sound_for(condition, own, donor)
    assert heard.dtype == np.int16
    assert np.array_equal(heard, wanted)
