"""Which reader serves which real video, and that both give the same frames where both can."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avs.errors import MediaError
from avs.media.decord_reader import DecordError, read_with_decord
from avs.media.probing import VideoTrack, probe, read_track
from avs.media.pyav_reader import read_with_pyav
from avs.media.sampling import SampledFrames, SamplePlan
from avs.media.video import Sampling, decode_video

pytestmark = pytest.mark.real_data

SIZE_PX = (96, 96)
# All other videos are served by decord. What decord does with these, if it is asked:
SAME, WRONG, FAILS = "same frames", "wrong frames", "fails"
SERVED_BY_PYAV = {
    "decord__flipping_a_pancake.mkv": SAME,
    "interactive-examples__stream-of-water.webm": WRONG,
    "mediabunny__annex-b-avc.mkv": FAILS,
    "mediabunny__frames.webm": SAME,
    "mediabunny__video-h265.mp4": SAME,
    "moviepy__big_buck_bunny_432_433.webm": SAME,
    "moviepy__bitmap.mp4": FAILS,
    "small__webm.webm": FAILS,
    "torchcodec__h264_10bits.mp4": WRONG,
    "torchcodec__nasa_13013.mp4": SAME,
}
UNUSABLE = {
    "decord__corrupted.mp4": "the picture is damaged after 2.70 s",
    "derived__empty.mp4": "is empty (0 bytes)",
    "derived__truncated_download.mp4": "may be cut off or damaged",
    "mediabunny__ac3.mp4": "has no video stream (only sound)",
    "small__FlashVideo.flv": "may be cut off or damaged",
    "small__mp4-with-audio.mp4": "has no video stream (only sound)",
}


def _index() -> list[dict[str, str]]:
    """Rows of INDEX.csv; one empty row where there is no real media, for a test that is skipped."""
    folder = os.environ.get("AVS_REAL_DATA")
    if not folder:
        return [{"file": "none"}]
    with (Path(folder) / "clips" / "INDEX.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


ROWS = {row["file"]: row for row in _index()}
USABLE = [name for name in ROWS if name not in UNUSABLE]


def test_the_tables_name_files_that_are_there() -> None:
    assert set(SERVED_BY_PYAV) | set(UNUSABLE) <= set(ROWS)
    assert {n for n, r in ROWS.items() if r["expected"] in ("broken", "no_video")} == set(UNUSABLE)


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_refused_in_words(clips: Path, name: str) -> None:
    with pytest.raises(MediaError) as error:
        decode_video(clips / name, size_px=SIZE_PX, sampling=Sampling.TIME)
    message = str(error.value)
    assert UNUSABLE[name] in message
    assert str(clips / name) in message
    assert "Traceback" not in message
    assert "Errno" not in message


@pytest.mark.parametrize("name", USABLE)
def test_each_video_has_its_reader_and_both_agree(clips: Path, name: str) -> None:
    path, row = clips / name, ROWS[name]
    video = decode_video(path, size_px=SIZE_PX, sampling=Sampling.TIME)
    is_pyav = name in SERVED_BY_PYAV
    assert video.info.decoder == ("pyav" if is_pyav else "decord")
    assert (video.samples is not None) == (row["expected"] == "ok")
    track = read_track(path)
    # The two streams of this file are described by the first, the other one is the better.
    if name != "torchcodec__nasa_13013.mp4":
        assert (track.width_px, track.height_px) == (int(row["width"]), int(row["height"]))
        assert video.info.num_frames == int(row["frames_decoded"])
    for plan in _plans(track):
        own = read_with_pyav(path, plan, track)
        if plan.sampling is Sampling.TIME:
            np.testing.assert_array_equal(own.frames, video.frames)
        _compare(path, plan, own, SERVED_BY_PYAV.get(name, SAME))


def _plans(track: VideoTrack) -> Iterator[SamplePlan]:
    for sampling, num_frames in ((Sampling.TIME, None), (Sampling.OFFICIAL, 5)):
        yield SamplePlan(
            sampling=sampling,
            num_frames=num_frames,
            size_px=SIZE_PX,
            max_duration_s=60.0,
            fps=track.fps,
        )


def _compare(path: Path, plan: SamplePlan, own: SampledFrames, expected: str) -> None:
    """decord's frames against PyAV's: bit for bit the same, or as wrong as the table says."""
    if expected == FAILS:
        with pytest.raises(DecordError):
            read_with_decord(path, plan)
        return
    other = read_with_decord(path, plan)
    if expected == WRONG:
        if plan.sampling is Sampling.TIME:
            assert np.abs(other.frames.astype(int) - own.frames).mean() > 2
        return
    np.testing.assert_array_equal(other.frames, own.frames)
    np.testing.assert_allclose(other.frame_time_s, own.frame_time_s, atol=1e-5)
    if own.end_s is not None:
        assert other.end_s == pytest.approx(own.end_s, abs=0.002)


@pytest.mark.parametrize("name", USABLE)
def test_probing_tells_the_displayed_size(clips: Path, name: str) -> None:
    row, info = ROWS[name], probe(clips / name)
    shown = (info.width_px, info.height_px)
    if name != "torchcodec__nasa_13013.mp4":
        size = (int(row["width"]), int(row["height"]))
        is_turned = int(row["rotation"]) % 180 != 0
        assert shown == (size[::-1] if is_turned else size)
    assert info.has_audio == (row["expected"] == "ok")
    assert info.decoder == ("pyav" if name in SERVED_BY_PYAV else "decord")


@pytest.mark.parametrize(
    "name", ["vggsound_0nib7bMm8BA_15000_25000.mp4", "mediabunny__annex-b-avc.mkv"]
)
def test_a_window_of_a_real_video_has_the_frames_of_the_whole(clips: Path, name: str) -> None:
    path = clips / name
    whole = decode_video(path, size_px=SIZE_PX, sampling=Sampling.TIME)
    part = decode_video(path, size_px=SIZE_PX, sampling=Sampling.TIME, start_s=5, num_frames=3)
    np.testing.assert_array_equal(part.frames, whole.frames[5:8])
    if whole.samples is not None and part.samples is not None:
        same = whole.samples[5 * 16000 : 8 * 16000]
        assert np.abs(part.samples[: len(same)] - same).max() < 0.01


def test_a_turned_video_is_upright(clips: Path) -> None:
    upright = decode_video(clips / "decord__video_0.mov", size_px=None, sampling=Sampling.TIME)
    turned = decode_video(clips / "decord__video_90.mov", size_px=None, sampling=Sampling.TIME)
    assert upright.frames.shape[1:3] == (320, 568)
    assert turned.frames.shape[1:3] == (568, 320)
    assert (turned.info.height_px, turned.info.width_px) == (568, 320)


def test_damage_after_the_frames_asked_for_is_no_error(clips: Path) -> None:
    path = clips / "decord__corrupted.mp4"
    video = decode_video(path, size_px=SIZE_PX, sampling=Sampling.TIME, num_frames=2)
    assert len(video.frames) == 2
