"""Masks in memory and as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from avs.inference.track import MaskTrack
from avs.media.masks import decode_rle

NAMES = ("background", "dog", "guitar")


def _track(masks: np.ndarray) -> MaskTrack:
    return MaskTrack.from_masks(
        iter(masks),
        time_s=[k + 15 / 16 for k in range(len(masks))],
        size_px=(masks.shape[1], masks.shape[2]),
        duration_s=float(len(masks)),
        class_names=NAMES,
        warnings=["careful: é"],
    )


@pytest.fixture
def masks() -> np.ndarray:
    """Noise of three classes, an empty mask, a full one, one without the middle class."""
    noise = np.random.default_rng(0).integers(0, 3, (2, 13, 7), np.uint8)
    noise[1][noise[1] == 1] = 0
    return np.stack([noise[0], np.zeros((13, 7)), np.full((13, 7), 2), noise[1]]).astype(np.uint8)


def test_masks_come_back_as_they_were(masks: np.ndarray) -> None:
    track = _track(masks)
    assert len(track) == 4
    for k, mask in enumerate(masks):
        assert np.array_equal(track.mask(k), mask)
        assert track.mask(k).dtype == np.uint8


def test_an_hour_of_large_masks_is_small() -> None:
    mask = np.zeros((1080, 1920), np.uint8)
    mask[200:800, 300:900] = 1
    track = _track(np.stack([mask] * 2))
    assert len(json.dumps(track.to_json())) / 2 * 3600 < 20e6


def test_json_names_every_object_of_every_second(masks: np.ndarray) -> None:
    plain = json.loads(json.dumps(_track(masks).to_json()))
    assert (plain["format"], plain["height"], plain["width"]) == (1, 13, 7)
    assert plain["classes"] == list(NAMES)
    assert plain["warnings"] == ["careful: é"]
    assert plain["duration_s"] == 4.0
    assert [m["time_s"] for m in plain["masks"]] == [k + 15 / 16 for k in range(4)]
    present = [[(o["class"], o["category"]) for o in m["objects"]] for m in plain["masks"]]
    assert present == [[(1, "dog"), (2, "guitar")], [], [(2, "guitar")], [(2, "guitar")]]
    for entry, mask in zip(plain["masks"], masks, strict=True):
        for one in entry["objects"]:
            assert np.array_equal(decode_rle(one["rle"]), mask == one["class"])


@pytest.mark.parametrize("count", [3, 5])
def test_a_mask_too_many_or_too_few_is_an_error(masks: np.ndarray, count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        MaskTrack.from_masks(
            iter(masks),
            time_s=[0.0] * count,
            size_px=(13, 7),
            duration_s=1.0,
            class_names=NAMES,
            warnings=[],
        )
