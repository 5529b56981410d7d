"""The answers for a video are those of the segment job, in every format."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from avsc_files import save_avsc
from made_clips import write_video
from made_up_pipeline import (
    THRESHOLD,
    all_parts,
    body_of,
    forward_of,
    running_pipeline,
)
from PIL import Image

from avs.inference.outputs import OutputKind, write_outputs
from avs.inference.predictor import Predictor
from avs.inference.track import MaskTrack
from avs.media.sandbox import probe
from avs.serving.pipeline import VideoPipeline
from avs.serving.segmenter import WindowSegmenter

FORMATS = ["png", "npz", "overlay", "matte"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An AVSC of random weights, T = 3, two windows a forward."""
    return save_avsc(tmp_path_factory.mktemp("avsc"), names=["bell", "car", "dog"])


@pytest.fixture(scope="module")
def predictor(checkpoint: str) -> Predictor:
    return Predictor.from_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def segmenter(checkpoint: str) -> WindowSegmenter:
    loaded = WindowSegmenter("default", share=1.0, device="cpu", keep_s=60.0)
    loaded.load(checkpoint)
    return loaded


@pytest.fixture(scope="module")
def pipeline() -> Iterator[VideoPipeline]:
    with running_pipeline() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def video(folder: Path) -> Path:
    """7.25 s, 8 frames a second, 48 x 80."""
    path = folder / "v.mp4"
    write_video(path, duration_s=7.25)
    return path


def _parts(
    pipeline: VideoPipeline, path: Path, segmenter: WindowSegmenter, **changes: Any
) -> list[Any]:
    forward = forward_of(segmenter)
    work = all_parts(pipeline, path, spec=segmenter.spec, forward=forward, **changes)
    return asyncio.run(work)


def _body(pipeline: VideoPipeline, path: Path, segmenter: WindowSegmenter, **changes: Any) -> bytes:
    parts = _parts(pipeline, path, segmenter, **changes)
    return body_of(parts, checkpoint=segmenter.spec.info.checkpoint)


@pytest.mark.parametrize("masks_per_s", [1, 3, None])
@pytest.mark.parametrize("duration_s", [0.5, 2.0, 7.25])
def test_masks_are_those_of_the_segment_job(
    pipeline: VideoPipeline,
    segmenter: WindowSegmenter,
    predictor: Predictor,
    tmp_path: Path,
    duration_s: float,
    masks_per_s: int | None,
) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, duration_s=duration_s, sound=duration_s != 2.0)
    track = predictor.segment_video(str(path), threshold=THRESHOLD, masks_per_s=masks_per_s)
    served = json.loads(_body(pipeline, path, segmenter, masks_per_s=masks_per_s))
    assert served.pop("video") == "mine.mp4"
    assert served == track.to_json()
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_masks_of_another_model_are_its_own(
    pipeline: VideoPipeline, video: Path, tiny_checkpoint: Path
) -> None:
    segmenter = WindowSegmenter("default", share=1.0, device="cpu", keep_s=60.0)
    segmenter.load(str(tiny_checkpoint))
    track = Predictor.from_checkpoint(str(tiny_checkpoint)).segment_video(str(video), threshold=0.5)
    served = json.loads(_body(pipeline, video, segmenter, threshold=0.5))
    assert served == {**track.to_json(), "video": "mine.mp4"}
    assert any(mask["objects"] for mask in served["masks"])


def test_objects_are_told_where_they_are_asked_for(
    pipeline: VideoPipeline, segmenter: WindowSegmenter, predictor: Predictor, video: Path
) -> None:
    track = predictor.segment_video(str(video), threshold=THRESHOLD, objects=True)
    served = json.loads(_body(pipeline, video, segmenter, objects=True))
    assert served == {**track.to_json(), "video": "mine.mp4"}
    assert any(mask["visible"] for mask in served["masks"])


@pytest.mark.parametrize("masks_per_s", [1, 3])
def test_a_stream_tells_the_same_masks_in_the_order_of_time(
    pipeline: VideoPipeline,
    segmenter: WindowSegmenter,
    predictor: Predictor,
    video: Path,
    masks_per_s: int,
) -> None:
    body = _body(pipeline, video, segmenter, format="stream", masks_per_s=masks_per_s)
    start, *rounds, end = [json.loads(line) for line in body.splitlines()]
    track = predictor.segment_video(str(video), threshold=THRESHOLD, masks_per_s=masks_per_s)
    plain = track.to_json()
    masks = [mask for one in rounds for mask in one["masks"]]
    assert masks == plain["masks"]
    assert len(rounds) == 3
    assert {one["event"] for one in rounds} == {"masks"}
    assert end == {"event": "end", "num_masks": len(masks), "warnings": []}
    info = segmenter.spec.info
    assert start == {
        "event": "start",
        "video": "mine.mp4",
        "model": "default",
        "checkpoint": info.checkpoint,
        **{name: plain[name] for name in ("height", "width", "masks_per_s", "classes", "warnings")},
        "duration_s": pytest.approx(7.25, abs=0.01),
    }


def test_a_long_stream_and_a_long_file_tell_the_same(
    pipeline: VideoPipeline, segmenter: WindowSegmenter, tmp_path: Path
) -> None:
    """A stream is decoded in shorter pieces."""
    path = tmp_path / "long.mp4"
    write_video(path, duration_s=64.5)
    whole = json.loads(_body(pipeline, path, segmenter))
    body = _body(pipeline, path, segmenter, format="stream")
    events = [json.loads(line) for line in body.splitlines()]
    assert [mask for one in events for mask in one.get("masks", ())] == whole["masks"]
    assert len(whole["masks"]) == 64


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_what_the_job_writes_every_time(
    pipeline: VideoPipeline,
    segmenter: WindowSegmenter,
    predictor: Predictor,
    video: Path,
    tmp_path: Path,
    name: str,
) -> None:
    body, again = (_body(pipeline, video, segmenter, format=name) for _ in range(2))
    assert body == again
    track = predictor.segment_video(str(video), threshold=THRESHOLD)
    written = write_outputs(track, tmp_path, [OutputKind(name)], video_path=str(video))
    if name != "png":
        assert body == (tmp_path / written[0]).read_bytes()
        return
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == ["index.json", *written]
        assert [archive.read(one) for one in written] == [
            (tmp_path / one).read_bytes() for one in written
        ]
        index = json.loads(archive.read("index.json"))
        assert {one.date_time[0] for one in archive.infolist()} == {1980}  # no date of now
    times = [mask.time_s for mask in track.masks]
    assert index == {"time_s": times, "classes": ["background", "sounding"]}


def test_files_hold_the_masks(
    pipeline: VideoPipeline,
    segmenter: WindowSegmenter,
    predictor: Predictor,
    video: Path,
    tmp_path: Path,
) -> None:
    track: MaskTrack = predictor.segment_video(str(video), threshold=THRESHOLD)
    wanted = np.stack([track.mask(k) for k in range(len(track))])
    assert 0 < wanted.mean() < 1
    with np.load(io.BytesIO(_body(pipeline, video, segmenter, format="npz"))) as arrays:
        assert np.array_equal(arrays["masks"], wanted)
        assert arrays["class_names"].tolist() == ["background", "sounding"]
    archive = zipfile.ZipFile(io.BytesIO(_body(pipeline, video, segmenter, format="png")))
    with archive, archive.open("png/000002.png") as file:
        assert np.array_equal(np.array(Image.open(file)), wanted[2])
    for name in ("overlay", "matte"):
        (tmp_path / name).write_bytes(_body(pipeline, video, segmenter, format=name))
        info = probe(str(tmp_path / name))
        assert (info.width_px, info.height_px) == (80, 48)
        assert info.duration_s == pytest.approx(7.25, abs=0.2)
