"""Windows of long videos: the frames of the whole, without reading what lies before."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from media_clips import frame_numbers, numbered_frames, write_clip

from avs.errors import MediaError
from avs.media.video import Sampling, decode_video


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("mp4", "libx264"),
        ("mp4", "libx265"),
        ("matroska", "libx264"),
        ("webm", "libvpx-vp9"),
        ("mpegts", "libx264"),
        ("mpegts", "mpeg4"),
        ("flv", "libx264"),
        ("avi", "mpeg4"),
    ],
)
@pytest.mark.parametrize("start", [0, 16])
def test_a_window_has_the_frames_of_the_whole(
    tmp_path: Path, form: str, codec: str, start: int
) -> None:
    path = write_clip(
        tmp_path / "clip",
        numbered_frames(64),
        fps=4,
        container_format=form,
        codec=codec,
        start=0 if form == "avi" else start,
    )
    whole = decode_video(path, size_px=None, sampling=Sampling.TIME)
    assert frame_numbers(whole.frames) == list(range(3, 64, 4))
    for start_s in (0, 1, 5, 6, 11, 13):
        part = decode_video(
            path, size_px=None, sampling=Sampling.TIME, start_s=start_s, num_frames=3
        )
        np.testing.assert_array_equal(part.frames, whole.frames[start_s : start_s + 3])
        np.testing.assert_allclose(part.frame_time_s, whole.frame_time_s[start_s : start_s + 3])
    rest = decode_video(path, size_px=None, sampling=Sampling.TIME, start_s=11)
    np.testing.assert_array_equal(rest.frames, whole.frames[11:])
    assert rest.info.duration_s == pytest.approx(16, abs=0.26)
    with pytest.raises(MediaError, match=r"ends at 16\.\d+ s, before start_s=20"):
        decode_video(path, size_px=None, sampling=Sampling.TIME, start_s=20)


def test_a_window_needs_nothing_of_what_lies_before_it(tmp_path: Path) -> None:
    """Damage there would be an error if it were decoded."""
    path = write_clip(tmp_path / "clip.mp4", numbered_frames(64), fps=4)
    with av.open(str(path)) as container:
        broken = list(container.streams.video[0].index_entries)[20:30]
        places = [(entry.pos, entry.size) for entry in broken]
    data = bytearray(path.read_bytes())
    for pos, size in places:
        data[pos : pos + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(MediaError, match="the picture is damaged"):
        decode_video(path, size_px=None, sampling=Sampling.TIME)
    part = decode_video(path, size_px=None, sampling=Sampling.TIME, start_s=13, num_frames=3)
    assert frame_numbers(part.frames) == [55, 59, 63]


def test_a_window_by_the_official_rule_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"start_s=1\.0 must be 0 by the official rule"):
        decode_video(tmp_path / "x", size_px=None, sampling=Sampling.OFFICIAL, start_s=1.0)


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_a_window_of_a_stream_that_is_renewed_bit_by_bit(tmp_path: Path, form: str) -> None:
    """Cameras without key frames: after a jump the picture takes a while to be whole."""
    path = write_clip(
        tmp_path / "clip",
        numbered_frames(64),
        fps=4,
        container_format=form,
        encoder_options={"x264-params": "intra-refresh=1:keyint=16:bframes=0"},
    )
    for start_s in (4.1, 6.35, 9.85):
        part = decode_video(
            path, size_px=None, sampling=Sampling.TIME, start_s=start_s, num_frames=1
        )
        assert frame_numbers(part.frames) == [int((start_s + 15 / 16) * 4)]
