"""Masks in memory and as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from avs.errors import MediaError
from avs.inference.objects import VisibleObject
from avs.inference.track import MaskTrack
from avs.media.masks import decode_rle, encode_rle

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
    assert plain["masks_per_s"] == 1
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


def test_a_track_comes_back_from_its_json(masks: np.ndarray) -> None:
    track = _track(masks)
    track.masks_per_s = 25
    car = VisibleObject(category="car", score=0.5, sounding=0.25, rle=encode_rle(masks[0] == 1))
    track.add(5.0, masks[0], [car])
    track.add(6.0, masks[0], [])
    plain = json.loads(json.dumps(track.to_json()))
    assert MaskTrack.from_json({**plain, "video": "of Serve"}) == track


def test_json_from_before_there_were_rates_has_one_mask_a_second(masks: np.ndarray) -> None:
    plain = _track(masks).to_json()
    del plain["masks_per_s"]
    assert MaskTrack.from_json(plain) == _track(masks)


BAD_RLE = {"size": [13, 8], "counts": "0"}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"height": 0},
        {"height": "13"},
        {"width": 7.0},
        {"height": 1 << 20, "width": 1 << 20, "masks": []},
        {"duration_s": math.nan},
        {"duration_s": None},
        {"classes": "background"},
        {"classes": [1, 2]},
        {"classes": ["background", "dog"]},
        {"warnings": None},
        {"masks_per_s": 0},
        {"masks_per_s": True},
        {"masks": None},
        {"masks": [[]]},
        {"masks": [{"time_s": -1.0, "objects": []}]},
        {"masks": [{"time_s": 1.0, "objects": {"class": 1}}]},
        {"masks": [{"time_s": 1.0, "objects": [{"class": 0, "rle": BAD_RLE}]}]},
        {"masks": [{"time_s": 1.0, "objects": [{"class": 1, "rle": BAD_RLE}]}]},
        {"masks": [{"time_s": 1.0, "objects": [{"class": 1, "rle": {"size": [13, 7]}}]}]},
        {"masks": [{"time_s": 1.0, "objects": [], "visible": [{"category": "dog"}]}]},
    ],
)
def test_json_that_is_no_track_is_told(masks: np.ndarray, changes: dict[str, Any]) -> None:
    with pytest.raises(MediaError, match="this is no track of masks"):
        MaskTrack.from_json({**_track(masks).to_json(), **changes})


@pytest.mark.parametrize("plain", [None, [], "x", 3, {}, {"format": 1}])
def test_what_is_no_object_is_no_track(plain: object) -> None:
    with pytest.raises(MediaError, match="this is no track of masks"):
        MaskTrack.from_json(plain)


def test_damaged_run_lengths_are_told_when_their_mask_is_asked_for(masks: np.ndarray) -> None:
    plain = json.loads(json.dumps(_track(masks).to_json()))
    plain["masks"][2]["objects"][0]["rle"]["counts"] = "00000"
    track = MaskTrack.from_json(plain)
    assert np.array_equal(track.mask(0), masks[0])
    with pytest.raises(MediaError, match="run-length"):
        track.mask(2)
