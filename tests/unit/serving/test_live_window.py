"""A camera's newest picture gets the mask that it would have as the last frame of a video."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from avsc_files import save_avsc
from made_up_pipeline import THRESHOLD, forward_of, running_pipeline, with_limits
from PIL import Image

from avs.inference.predictor import Predictor
from avs.media.frames import read_small_picture
from avs.media.masks import decode_rle
from avs.serving.live_window import live_answer
from avs.serving.messages import ApiError, LiveAnswer, LiveRequest, Refusal
from avs.serving.pipeline import VideoPipeline
from avs.serving.segmenter import WindowSegmenter

HEIGHT_PX, WIDTH_PX = 45, 77


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """T = 3, S = 64; finds objects."""
    return save_avsc(tmp_path_factory.mktemp("avsc"), names=["bell", "car", "dog"])


@pytest.fixture(scope="module")
def segmenter(checkpoint: str) -> WindowSegmenter:
    loaded = WindowSegmenter("default", share=1.0, device="cpu", keep_s=60.0)
    loaded.load(checkpoint)
    return loaded


@pytest.fixture(scope="module")
def pipeline() -> Iterator[VideoPipeline]:
    with running_pipeline() as started:
        yield started


def _jpeg(seed: int, size_px: tuple[int, int] = (HEIGHT_PX, WIDTH_PX), **how: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    target = io.BytesIO()
    image = Image.fromarray(pixels).resize(size_px[::-1], Image.Resampling.BICUBIC)
    image.save(target, **{"format": "JPEG", "quality": 90, **how})
    return target.getvalue()


def _small(jpeg: bytes, tmp_path: Path) -> np.ndarray:
    path = tmp_path / "reference.jpg"
    path.write_bytes(jpeg)
    return read_small_picture(path, size_px=(64, 64), max_pixels=10**6).pixels


def _sound(seconds: int) -> np.ndarray:
    t = np.arange(seconds * 16000) / 16000
    return (0.4 * np.sin(2 * np.pi * (300 + 200 * t) * t)).astype(np.float32)


def _request(jpeg: bytes, past: list[np.ndarray] | None = None, **changes: Any) -> LiveRequest:
    frames = past or []
    values: dict[str, Any] = {
        "model": "default",
        "past": np.stack(frames) if frames else np.zeros((0, 64, 64, 3), np.uint8),
        "samples": _sound(len(frames) + 1),
        "threshold": THRESHOLD,
        "objects": False,
    }
    return LiveRequest(jpeg=jpeg, **{**values, **changes})


def _answer(
    request: LiveRequest, segmenter: WindowSegmenter, folder: Path, pipeline: VideoPipeline
) -> LiveAnswer | Refusal:
    (folder / "empty").mkdir(exist_ok=True)
    forward = forward_of(segmenter)
    work = live_answer(
        request, spec=segmenter.spec, forward=forward, folder=folder / "empty", pipeline=pipeline
    )
    return asyncio.run(work)


def _dense(mask: dict[str, Any]) -> np.ndarray:
    dense = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    for found in mask["objects"]:
        dense[decode_rle(found["rle"]).astype(bool)] = found["class"]
    return dense


@pytest.mark.parametrize("num_past", [0, 1, 2])
def test_the_mask_is_the_last_one_of_a_video(
    pipeline: VideoPipeline,
    segmenter: WindowSegmenter,
    checkpoint: str,
    tmp_path: Path,
    num_past: int,
) -> None:
    pictures = [_jpeg(seed) for seed in range(num_past + 1)]
    frames = [_small(jpeg, tmp_path) for jpeg in pictures]
    predictor = Predictor.from_checkpoint(checkpoint)

    def wanted_at(threshold: float) -> np.ndarray:
        *_, mask = predictor.segment(
            np.stack(frames),
            _sound(num_past + 1),
            size_px=(HEIGHT_PX, WIDTH_PX),
            threshold=threshold,
        )
        return mask

    threshold = next(k / 200 for k in range(10, 190) if wanted_at(k / 200).mean() < 0.8)
    wanted = wanted_at(threshold)
    assert wanted.mean() > 0
    request = _request(pictures[-1], frames[:-1], threshold=threshold)
    answer = _answer(request, segmenter, tmp_path, pipeline)
    assert isinstance(answer, LiveAnswer)
    assert np.array_equal(_dense(answer.mask), wanted)
    assert set(answer.mask) == {"objects"}
    assert (answer.height_px, answer.width_px) == (HEIGHT_PX, WIDTH_PX)
    assert np.array_equal(answer.frame, frames[-1])


def test_the_past_and_the_sound_count(
    pipeline: VideoPipeline, segmenter: WindowSegmenter, tmp_path: Path
) -> None:
    jpeg, past = _jpeg(0), [_small(_jpeg(k), tmp_path) for k in (1, 2)]
    jobs: list[Any] = []
    plain = segmenter.forward
    for request in (
        _request(jpeg, past),
        _request(jpeg, past[::-1]),
        _request(jpeg, past, samples=np.zeros(48000, np.float32)),
    ):
        segmenter.forward = lambda given: jobs.extend(given) or plain(given)  # type: ignore[method-assign, func-returns-value]
        try:
            _answer(request, segmenter, tmp_path, pipeline)
        finally:
            segmenter.forward = plain  # type: ignore[method-assign]
    first, turned, silent = jobs
    assert np.array_equal(first.frames[:2], np.stack(past))
    assert np.array_equal(turned.frames[:2], np.stack(past[::-1]))
    assert first.frame_valid.all()
    assert not np.array_equal(first.sound, silent.sound)
    assert np.array_equal(first.sound, turned.sound)


def test_objects_are_told_where_they_are_asked_for(
    pipeline: VideoPipeline, segmenter: WindowSegmenter, tmp_path: Path
) -> None:
    answer = _answer(_request(_jpeg(0), objects=True), segmenter, tmp_path, pipeline)
    assert isinstance(answer, LiveAnswer)
    assert set(answer.mask) == {"objects", "visible"}
    for one in answer.mask["visible"]:
        assert set(one) == {"category", "score", "sounding", "rle"}
        assert one["rle"]["size"] == [HEIGHT_PX, WIDTH_PX]


@pytest.mark.parametrize(
    "jpeg",
    [
        b"",
        b"\xff\xd8\xff",
        b"no picture at all",
        _jpeg(0)[:300],
        _jpeg(0)[:200] + bytes(100) + b"\xff\xd9",
        b"#EXTM3U\nhttp://127.0.0.1/",
        b"\x00\x00\x00\x18ftypmp42" + bytes(200),
    ],
    ids=["empty", "begun", "text", "cut", "damaged", "playlist", "mp4"],
)
def test_a_broken_picture_is_refused_in_words(
    pipeline: VideoPipeline, segmenter: WindowSegmenter, tmp_path: Path, jpeg: bytes
) -> None:
    refusal = _answer(_request(jpeg), segmenter, tmp_path, pipeline)
    assert isinstance(refusal, Refusal), refusal
    assert (refusal.status, refusal.code) == (422, "unreadable")
    assert refusal.message.startswith("the picture: ")
    assert "/" not in refusal.message
    assert refusal.message.isprintable()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_huge_picture_is_refused_in_words(
    pipeline: VideoPipeline, segmenter: WindowSegmenter, tmp_path: Path, kind: str
) -> None:
    huge = _jpeg(0, (300, 300), format=kind)
    refusal = _answer(_request(huge), segmenter, tmp_path, with_limits(pipeline, max_pixels=89_999))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (422, "unreadable")
    assert refusal.message == "the picture: picture of 300 x 300 is too large"
    taken = _answer(_request(huge), segmenter, tmp_path, with_limits(pipeline, max_pixels=90_000))
    assert isinstance(taken, LiveAnswer)


def test_a_picture_that_bursts_is_refused(
    pipeline: VideoPipeline, segmenter: WindowSegmenter, tmp_path: Path
) -> None:
    target = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(target, "PNG")
    refusal = _answer(_request(target.getvalue()), segmenter, tmp_path, pipeline)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (422, "unreadable")
    assert "/" not in refusal.message


def test_what_a_forward_raises_passes_through(
    pipeline: VideoPipeline, segmenter: WindowSegmenter, tmp_path: Path
) -> None:
    async def forward(_: Any) -> Any:
        raise ApiError(503, "unavailable", "gone")

    work = live_answer(
        _request(_jpeg(0)),
        spec=segmenter.spec,
        forward=forward,
        folder=tmp_path,
        pipeline=pipeline,
    )
    with pytest.raises(ApiError, match="gone"):
        asyncio.run(work)
