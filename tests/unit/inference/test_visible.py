"""All objects that a model sees: in the JSON with how much they sound, outlined where silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avsc_files import save_avsc
from made_clips import write_video

from avs.errors import ConfigError
from avs.inference.objects import VisibleObject
from avs.inference.outputs import OutputKind, write_outputs
from avs.inference.predictor import Predictor
from avs.inference.track import MaskTrack
from avs.inference.visible import found_objects
from avs.media.coco import TrackMask, parse_track
from avs.media.encoding import write_mp4
from avs.media.masks import decode_rle, encode_rle
from avs.media.video import Sampling, decode_video

NAMES = ["bell", "car", "dog"]


def square(top: int, left: int) -> np.ndarray:
    mask = np.zeros((64, 64), np.bool_)
    mask[top : top + 20, left : left + 20] = True
    return mask


def test_objects_that_are_not_seen_or_have_no_pixels_are_left_out() -> None:
    masks = torch.full((3, 8, 8), -5.0)
    masks[:2, :4] = 5.0
    found = found_objects(
        masks,
        score=torch.tensor([0.9, 0.0, 0.8]),
        sounding=torch.tensor([0.2, 0.9, 0.9]),
        names=NAMES,
        size_px=(16, 24),
    )
    (bell,) = found
    assert bell.category == "bell"
    assert (bell.score, bell.sounding) == (pytest.approx(0.9), pytest.approx(0.2))
    mask = decode_rle(bell.rle)
    assert mask.shape == (16, 24)
    assert mask[:7].all()
    assert not mask[9:].any()


def track() -> MaskTrack:
    """One mask: a dog that sounds, a car that does not."""
    made = MaskTrack.empty(("background", "sounding"))
    made.size_px = (64, 64)
    objects = [
        VisibleObject(category="dog", score=0.9, sounding=0.8, rle=encode_rle(square(4, 4))),
        VisibleObject(category="car", score=0.7, sounding=0.1, rle=encode_rle(square(36, 36))),
    ]
    made.add(0.0, square(4, 4).astype(np.uint8), objects)
    return made


def test_the_json_tells_every_visible_object_and_how_much_it_sounds() -> None:
    plain = json.loads(json.dumps(track().to_json()))
    (mask,) = plain["masks"]
    assert [(o["category"], o["score"], o["sounding"]) for o in mask["visible"]] == [
        ("dog", 0.9, 0.8),
        ("car", 0.7, 0.1),
    ]
    assert np.array_equal(decode_rle(mask["visible"][1]["rle"]) > 0, square(36, 36))
    assert [o["category"] for o in mask["objects"]] == ["sounding"]
    (parsed,) = parse_track(plain, video="x")
    assert np.array_equal(parsed.silent_labels() > 0, square(36, 36))


def test_nobody_asked_nothing_is_told() -> None:
    made = MaskTrack.empty(("background", "sounding"))
    made.add(0.0, square(0, 0).astype(np.uint8))
    assert "visible" not in made.to_json()["masks"][0]


def test_the_overlay_outlines_what_is_silent(tmp_path: Path) -> None:
    path, plain, told = tmp_path / "v.mp4", tmp_path / "plain", tmp_path / "told"
    write_mp4(path, np.full((8, 64, 64, 3), 60, np.uint8), fps=8, samples=None)
    made, pictures = track(), []
    for folder in (plain, told):
        folder.mkdir()
        without = track()
        if folder == plain:
            without.masks = [type(m)(m.time_s, m.rles) for m in made.masks]
        write_outputs(without, folder, [OutputKind.OVERLAY], video_path=str(path))
        drawn = decode_video(folder / "overlay.mp4", size_px=(64, 64), sampling=Sampling.TIME)
        pictures.append(drawn.frames[0].astype(int))
    changed = np.abs(pictures[0] - pictures[1]).sum(axis=2) > 90
    assert changed[36, 38:54].mean() > 0.9
    assert not changed[42:50, 42:50].any(), "the inside is left as it is"
    assert not changed[:30, :30].any()


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """An AVSC of random weights."""
    return save_avsc(tmp_path / "checkpoint", names=NAMES)


def test_a_predictor_tells_the_objects_of_every_mask(checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, duration_s=4.0)
    predictor = Predictor.from_checkpoint(checkpoint)
    plain, told = (predictor.segment_video(str(path), objects=wanted) for wanted in (False, True))
    assert len(told) == 4
    assert [m.rles for m in told.masks] == [m.rles for m in plain.masks]
    assert all(m.visible is None for m in plain.masks)
    seen: list[Any] = [one for m in told.masks for one in m.visible or []]
    assert seen
    assert {one.category for one in seen} <= set(NAMES)
    assert all(0 < one.score <= 1 and 0 <= one.sounding <= 1 for one in seen)
    for mask in told.masks:
        names = [one.category for one in mask.visible or []]
        assert len(names) == len(set(names))


def test_a_model_without_objects_says_so(run_folder: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_checkpoint(str(run_folder))
    with pytest.raises(ConfigError, match="is a tpavi model, which finds no objects"):
        predictor.segment_video(str(tmp_path / "v.mp4"), objects=True)


def test_no_silent_object_hides_another_whole() -> None:
    def code(size: int) -> Any:
        mask = np.zeros((32, 32), np.uint8)
        mask[:size, :size] = 1
        return encode_rle(mask)

    sure_first = TrackMask(
        time_s=0.0, size_px=(32, 32), objects=(), silent=(code(8), code(32), code(16))
    )
    counts = np.bincount(sure_first.silent_labels().ravel()).tolist()
    assert counts == [0, 64, 32 * 32 - 16 * 16, 16 * 16 - 64]
