"""COCO segmentations and files of timed masks, of the platform and of COCO-video."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.inference import MaskTrack
from avs.media.coco import parse_track, read_segmentation
from avs.media.masks import Rle, decode_rle, encode_rle

SIZE = (20, 30)


def _box(top: int, left: int, bottom: int, right: int) -> NDArray[np.uint8]:
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def _polygon(top: float, left: float, bottom: float, right: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def test_run_lengths_are_read_as_text_and_as_numbers() -> None:
    mask = (np.random.default_rng(0).random(SIZE) > 0.5).astype(np.uint8)
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    counts = [0, *runs] if flat[0] else runs
    assert np.array_equal(read_segmentation({"size": list(SIZE), "counts": counts}, SIZE), mask)
    assert np.array_equal(read_segmentation(dict(encode_rle(mask)), SIZE), mask)


def test_polygons_are_united() -> None:
    mask = read_segmentation([_polygon(2, 3, 8, 10), _polygon(10, 20, 15, 25)], SIZE)
    wanted = _box(2, 3, 8, 10) | _box(10, 20, 15, 25)
    assert np.abs(mask.astype(int) - wanted).sum() <= 40  # the border alone
    assert mask[3:7, 4:9].all()
    assert mask[11:14, 21:24].all()
    assert not mask[:, 12:19].any()


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        "text",
        [[1, 2]],
        [[1, 2, 3, 4, 5]],
        [["a"] * 6],
        [[0, 0, 1, 1, float("nan"), 3]],
        {"size": [20, 30]},
        {"size": [20, 30], "counts": [599]},
        {"size": [20, 30], "counts": [-1, 601]},
        {"size": [20, 30], "counts": [None]},
        {"size": [30, 20], "counts": [600]},
    ],
)
def test_a_malformed_segmentation_is_refused(segmentation: Any) -> None:
    with pytest.raises(MediaError):
        read_segmentation(segmentation, SIZE)


def test_a_run_length_code_larger_than_any_picture_is_refused_before_it_is_made() -> None:
    with pytest.raises(MediaError, match="too large"):
        decode_rle(Rle(size=[10**6, 10**6], counts=[10**12]))  # type: ignore[typeddict-item]


def test_what_the_platform_writes_is_read_back_exactly() -> None:
    rng = np.random.default_rng(1)
    masks = [rng.integers(0, 3, SIZE).astype(np.uint8) for _ in range(3)]
    masks[1][:] = 0
    names = ("background", "dog", "cat")
    track = MaskTrack.from_masks(
        masks,
        time_s=[0.9375, 1.9375, 2.9375],
        size_px=SIZE,
        duration_s=3.0,
        class_names=names,
        warnings=[],
    )
    found = parse_track(json.loads(json.dumps(track.to_json())), video="x.mp4")
    assert [m.time_s for m in found] == [0.9375, 1.9375, 2.9375]
    for mask, read in zip(masks, found, strict=True):
        assert np.array_equal(read.dense(names.index), mask)


def _coco(videos: list[dict[str, Any]], segmentations: dict[int, list[Any]]) -> dict[str, Any]:
    return {
        "videos": [{"height": SIZE[0], "width": SIZE[1], **v} for v in videos],
        "categories": [{"id": 7, "name": "dog"}],
        "annotations": [
            {"video_id": v, "category_id": 7, "segmentations": s} for v, s in segmentations.items()
        ],
    }


def test_coco_video_has_a_mask_for_every_frame() -> None:
    box = dict(encode_rle(_box(1, 1, 5, 5)))
    plain = _coco([{"id": 1, "file_names": ["x/0.jpg"] * 3}], {1: [box, None, box]})
    found = parse_track(plain, video="x.mp4")
    assert [m.time_s for m in found] == [0.9375, 1.9375, 2.9375]
    assert [int(m.dense(lambda _: 4).max()) for m in found] == [4, 0, 4]
    assert found[0].objects[0][0] == "dog"


@pytest.mark.parametrize(
    ("video", "times"),
    [
        ({"fps": 2}, [0, 0.5, 1]),
        ({"fps": 10, "file_names": ["v/00005.jpg", "v/00010.jpg", "v/00015.jpg"]}, [0.5, 1, 1.5]),
        ({"fps": 10, "file_names": ["a.jpg", "b.jpg", "c.jpg"]}, [0, 0.1, 0.2]),
    ],
)
def test_times_come_from_the_frame_rate(video: dict[str, Any], times: list[float]) -> None:
    plain = _coco([{"id": 1, **video}], {1: [None] * 3})
    assert [m.time_s for m in parse_track(plain, video="x.mp4")] == times


def test_of_several_videos_the_one_of_that_name_is_taken() -> None:
    box = dict(encode_rle(_box(1, 1, 5, 5)))
    videos = [{"id": 1, "name": "a.mp4"}, {"id": 2, "file_names": ["b c/000.jpg"]}]
    plain = _coco(videos, {1: [None], 2: [box]})
    assert not parse_track(plain, video="sub/a.mp4")[0].objects
    assert parse_track(plain, video="b c.mp4")[0].objects
    with pytest.raises(MediaError, match="none of them named d"):
        parse_track(plain, video="d.mp4")


@pytest.mark.parametrize(
    "plain",
    [
        [],
        {},
        {"masks": [{}], "height": 1, "width": 1},
        {"masks": [], "height": 10**6, "width": 10**6},
        {"videos": [], "annotations": []},
        {"videos": [{"id": 1}], "annotations": [{}]},
        {"videos": [{"id": 1, "height": 2, "width": 2, "fps": 0}], "annotations": []},
    ],
)
def test_other_json_is_refused(plain: Any) -> None:
    with pytest.raises(MediaError):
        parse_track(plain, video="x.mp4")
