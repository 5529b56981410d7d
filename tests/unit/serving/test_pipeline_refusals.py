"""Files that are no video, are damaged or are beyond the limits are refused in words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_clips import write_video, write_wav
from made_up_pipeline import (
    Network,
    all_parts,
    body_of,
    made_up_spec,
    running_pipeline,
    with_limits,
)
from made_up_service import HASH

from avs.serving.messages import Refusal
from avs.serving.pipeline import VideoPipeline


@pytest.fixture(scope="module")
def pipeline() -> Iterator[VideoPipeline]:
    with running_pipeline() as started:
        yield started


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7.25 s, 8 frames a second, 48 x 80."""
    path = tmp_path_factory.mktemp("videos") / "v.mp4"
    write_video(path, duration_s=7.25)
    return path


def _parts(pipeline: VideoPipeline, path: Path, **changes: Any) -> list[Any]:
    async def work() -> list[Any]:
        spec = made_up_spec(windows_per_forward=2)
        return [*await all_parts(pipeline, path, spec=spec, forward=Network(), **changes)]

    return asyncio.run(work())


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nhttp://169.254.169.254/latest/meta-data\n"
NOT_VIDEOS: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 422, "unreadable"),
    "text": (b"once upon a time " * 50, 415, "unsupported_media"),
    "a playlist": (PLAYLIST, 415, "unsupported_media"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), 415, "unsupported_media"),
    "noise": (np.random.default_rng(0).bytes(5000), 415, "unsupported_media"),
    "a head alone": (b"\x00\x00\x00\x18ftypmp42" + bytes(200), 422, "unreadable"),
}


def _refusal(parts: list[Any], tmp_path: Path) -> Refusal:
    [refusal] = parts
    assert isinstance(refusal, Refusal)
    assert refusal.message.startswith("mine.mp4: ")
    assert str(tmp_path) not in refusal.message
    assert "/" not in refusal.message
    assert refusal.message.isprintable()
    return refusal


@pytest.mark.parametrize("kind", ["rle_json", "stream"])
@pytest.mark.parametrize("what", NOT_VIDEOS)
def test_what_is_no_video_is_refused(
    pipeline: VideoPipeline, tmp_path: Path, what: str, kind: str
) -> None:
    data, status, code = NOT_VIDEOS[what]
    path = tmp_path / "upload"
    path.write_bytes(data)
    refusal = _refusal(_parts(pipeline, path, format=kind), tmp_path)
    assert (refusal.status, refusal.code) == (status, code)


def test_a_cut_or_soundless_or_damaged_file_is_told(
    pipeline: VideoPipeline, video: Path, tmp_path: Path
) -> None:
    data = video.read_bytes()
    third = len(data) // 3
    damaged = data[:third] + bytes(third) + data[2 * third :]
    for k, one in enumerate((data[: len(data) // 2], damaged)):
        path = tmp_path / f"upload{k}"
        path.write_bytes(one)
        refusal = _refusal(_parts(pipeline, path), tmp_path)
        assert (refusal.status, refusal.code) == (422, "unreadable")
    write_wav(tmp_path / "sound", np.zeros((16000, 1)))
    refusal = _refusal(_parts(pipeline, tmp_path / "sound"), tmp_path)
    assert (refusal.status, refusal.code) == (422, "unreadable")


@pytest.mark.parametrize(
    ("limits", "changes", "code"),
    [
        ({}, {"max_duration_s": 7.0}, "too_long"),
        ({"max_pixels": 48 * 80 - 1}, {}, "too_many_pixels"),
        ({"max_frames": 57}, {}, "too_many_frames"),
    ],
)
def test_a_video_beyond_the_limits_is_refused_before_it_is_decoded(
    pipeline: VideoPipeline,
    video: Path,
    limits: dict[str, float],
    changes: dict[str, float],
    code: str,
) -> None:
    calls = pipeline.sandbox.calls  # type: ignore[attr-defined]
    calls.clear()
    parts = _parts(with_limits(pipeline, **limits), video, **changes)
    refusal = _refusal(parts, video.parent)
    assert (refusal.status, refusal.code) == (422, code)
    assert calls == ["read_track"]


def test_a_video_at_the_limits_is_taken(pipeline: VideoPipeline, video: Path) -> None:
    exact = with_limits(pipeline, max_pixels=48 * 80, max_frames=58)
    assert json.loads(body_of(_parts(exact, video, max_duration_s=7.26), checkpoint=HASH))["masks"]


@pytest.mark.parametrize("kind", ["rle_json", "stream"])
def test_warnings_name_the_video_as_its_sender_does(
    pipeline: VideoPipeline, video: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    plain = pipeline.sandbox.call

    def call(function: Any, *args: Any, **given: Any) -> Any:
        result = plain(function, *args, **given)
        if function.__name__ != "decode_video":
            return result
        return replace(result, samples=None, warnings=(f"the sound is left out: {video}: is cut",))

    monkeypatch.setattr(pipeline.sandbox, "call", call)
    body = body_of(_parts(pipeline, video, format=kind), checkpoint=HASH)
    told = json.loads(body.splitlines()[-1])["warnings"]
    assert told == ["the sound is left out: mine.mp4: is cut", "no sound track: treated as silence"]
    assert str(video).encode() not in body
