"""Objects in an evaluation: what a clip tells of them, and what clips add up to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from avsc_files import save_avsc

from avs.datasets.synthetic import KINDS
from avs.inference.conditions import Condition
from avs.inference.object_scores import (
    count_objects,
    object_lines,
    outlines,
    shown_objects,
    sum_objects,
)
from avs.inference.objects import VisibleObject
from avs.inference.predictor import Predictor
from avs.inference.scoring import ClipScorer, as_numpy
from avs.inference.visible import objects_at
from avs.media.masks import encode_rle
from avs.training.feed import ClipReader

TASK = {"index": 1, "donor": 2, "picture": True}


def seen(category: str, sounding: float, *, top: int = 0, score: float = 0.9) -> VisibleObject:
    mask = np.zeros((8, 8), np.bool_)
    mask[top : top + 3] = True
    return VisibleObject(category=category, score=score, sounding=sounding, rle=encode_rle(mask))


def found(silent: float = 0.1) -> dict[Condition, list[list[VisibleObject]]]:
    """Three frames, the last is padding; the car is not seen with another clip's sound."""
    dog, car = seen("dog", 0.8), seen("car", 0.2, top=4, score=0.95)
    return {
        Condition.TRUE: [[dog, car], [dog], [dog, car]],
        Condition.SILENT: [[seen("dog", silent), car], [seen("dog", silent)], []],
        Condition.SWAPPED: [[seen("dog", 0.5)], [seen("dog", 0.49996)], [dog]],
    }


VALID = np.array([True, True, False])


def test_objects_are_counted_in_real_frames_by_category() -> None:
    counted = json.loads(json.dumps(count_objects(found(), VALID)))
    assert counted["num_frames"] == 2
    assert counted["counts"] == {
        "true": {"dog": [2, 2], "car": [1, 0]},
        "silent": {"dog": [2, 0], "car": [1, 0]},
        "swapped": {"dog": [2, 2]},  # 0.49996 is 0.5 in masks.json, and drawn so
    }


def test_clips_add_up_by_sound_and_by_category() -> None:
    rows = [{"objects": count_objects(found(sound), VALID)} for sound in (0.1, 0.7)]
    result = sum_objects(rows)
    assert result["num_frames"] == 4
    assert result["by_sound"]["true"] == {
        "seen": 6,
        "seen_per_frame": 1.5,
        "sounding": 4,
        "sounding_per_frame": 1.0,
    }
    assert result["by_sound"]["silent"]["sounding"] == 2
    assert result["by_category"]["car"] == {
        "true": {"seen": 2, "sounding": 0},
        "silent": {"seen": 2, "sounding": 0},
    }
    assert list(result["by_category"]) == ["car", "dog"]
    assert object_lines({"objects": result}) == [
        "objects a frame: 1.50 seen; sounding: 1.00 true, 0.50 silent, 1.00 swapped"
    ]
    assert object_lines({}) == []


def test_nothing_seen_adds_up_to_zero() -> None:
    nothing = {c: [[], []] for c in Condition}
    result = sum_objects([{"objects": count_objects(nothing, np.zeros(2, np.bool_))}])
    assert result["by_sound"]["true"]["seen_per_frame"] == 0.0
    assert result["by_category"] == {}


def test_a_shown_frame_tells_the_surest_object_first_and_outlines_the_silent() -> None:
    car, dog = shown_objects(found(), 0)
    assert (car["category"], car["score"]) == ("car", 0.95)
    assert car["sounding"] == {"true": 0.2, "silent": 0.2, "swapped": None}
    assert dog["sounding"] == {"true": 0.8, "silent": 0.1, "swapped": 0.5}
    labels = outlines(found(), 0, (8, 8))
    assert labels["seen_outlines"][5, 0] == 1, "numbered as they are listed"
    assert labels["seen_outlines"][1, 0] == 2
    assert np.unique(labels["true_outlines"][4:7]).tolist() == [1]
    assert not labels["true_outlines"][:4].any(), "the dog sounds"
    assert np.unique(labels["silent_outlines"]).tolist() == [0, 1, 2]
    assert not labels["swapped_outlines"].any()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_avsc(tmp_path_factory.mktemp("avsc"), names=sorted(KINDS), num_frames=5)


def test_asking_for_objects_changes_no_score(checkpoint: str, prepared: Path) -> None:
    plain, told = (
        ClipScorer(checkpoint, str(prepared), "test", "cpu", objects=wanted)(TASK)
        for wanted in (False, True)
    )
    assert told["scores"] == plain["scores"]
    assert told.keys() - plain.keys() == {"objects", "shown_objects", "shown_frame"}
    assert plain["picture"].items() <= told["picture"].items()
    assert told["picture"].keys() - plain["picture"].keys() == {
        f"{name}_outlines" for name in ("seen", "true", "silent", "swapped")
    }


def test_the_scorer_tells_what_the_predictor_sees(checkpoint: str, prepared: Path) -> None:
    row = json.loads(
        json.dumps(ClipScorer(checkpoint, str(prepared), "test", "cpu", objects=True)(TASK))
    )
    both = ClipReader(str(prepared), split="test").read([1, 2])
    predictor = Predictor.from_checkpoint(checkpoint)
    frames = both.frames[:1].permute(0, 1, 3, 4, 2).numpy()
    valid = both.frame_valid[:1].numpy()
    for condition, slot in (("true", 0), ("swapped", 1)):
        sound = both.log_mel[slot : slot + 1].numpy()
        ((_, visible),) = predictor.forward(frames, sound, valid, objects=True)
        assert visible is not None
        names = predictor.category_names
        each = [objects_at(visible, (0, k), names=names, size_px=(64, 64)) for k in range(5)]
        wanted: dict[str, list[int]] = {}
        for one in (one for of_frame in each for one in of_frame):
            count = wanted.setdefault(one.category, [0, 0])
            count[0] += 1
            count[1] += one.sounds
        assert wanted
        assert row["objects"]["counts"][condition] == wanted
        told = {o["category"]: (o["score"], o["sounding"][condition]) for o in row["shown_objects"]}
        assert told == {one.category: (one.score, one.sounding) for one in each[2]}
        silent = sum(not one.sounds for one in each[2])
        labels = as_numpy(row["picture"][f"{condition}_outlines"])
        assert len(np.unique(labels)) - 1 <= silent
        assert bool(labels.any()) == bool(silent)


def test_what_is_visible_does_not_depend_on_the_sound(checkpoint: str, prepared: Path) -> None:
    row = ClipScorer(checkpoint, str(prepared), "test", "cpu", objects=True)(TASK)
    counts = row["objects"]["counts"].values()
    seen_frames = [{name: count[0] for name, count in own.items()} for own in counts]
    assert seen_frames[0] == seen_frames[1] == seen_frames[2]
    assert all(None not in one["sounding"].values() for one in row["shown_objects"])
