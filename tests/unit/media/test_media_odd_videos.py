"""Videos as cameras, phones and editors write them: turned, trimmed, of odd rates and codecs."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from media_clips import (
    add_sound,
    add_video,
    encode_sound,
    encode_video,
    frame_numbers,
    mux_in_order,
    numbered_frames,
    write_clip,
)
from numpy.typing import NDArray

from avs.media.audio import read_audio
from avs.media.decord_reader import DecordError, read_with_decord
from avs.media.probing import probe, read_track
from avs.media.pyav_reader import read_with_pyav
from avs.media.sampling import SamplePlan
from avs.media.video import Sampling, decode_video

_ONE = 1 << 16
TURNS = {  # display matrix, and what it does to a picture
    "quarter": ((0, -_ONE, 0, _ONE, 0, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, 1)),
    "half": ((-_ONE, 0, 0, 0, -_ONE, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, 2)),
    "three": ((0, _ONE, 0, -_ONE, 0, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, 3)),
    "mirror": ((-_ONE, 0, 0, 0, _ONE, 0, 0, 0, 1 << 30), lambda p: p[:, ::-1]),
    "flip": ((_ONE, 0, 0, 0, -_ONE, 0, 0, 0, 1 << 30), lambda p: p[::-1]),
    "transpose": ((0, _ONE, 0, _ONE, 0, 0, 0, 0, 1 << 30), lambda p: p.transpose(1, 0, 2)),
}


def _corners() -> NDArray[np.uint8]:
    """Eight pictures [96, 128] with a red, a green and a blue corner."""
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:32, :32, 0] = picture[:32, -32:, 1] = picture[-32:, :32, 2] = 255
    return np.repeat(picture[None], 8, axis=0)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_pictures_are_shown_as_their_matrix_says(tmp_path: Path, form: str, turn: str) -> None:
    matrix, shown = TURNS[turn]
    path = write_clip(tmp_path / "clip", _corners(), container_format=form, matrix=matrix)
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    expected = shown(_corners()[0])
    assert video.frames[0].shape == expected.shape
    assert np.abs(video.frames[0].astype(int) - expected).mean() < 6
    info = probe(path)
    assert (info.height_px, info.width_px) == expected.shape[:2]
    is_mirrored = turn in ("mirror", "flip", "transpose")
    assert video.info.decoder == ("pyav" if is_mirrored or form == "matroska" else "decord")


@pytest.mark.parametrize(
    ("codec", "form", "decoder"),
    [
        ("libx264", "mp4", "decord"),
        ("libx265", "mp4", "decord"),
        ("mpeg4", "mp4", "decord"),
        ("libsvtav1", "mp4", "pyav"),
        ("libvpx-vp9", "mp4", "pyav"),
        ("libx264", "matroska", "pyav"),
        ("libx265", "matroska", "pyav"),
        ("libsvtav1", "webm", "pyav"),
        ("libvpx", "webm", "pyav"),
        ("libx264", "mpegts", "pyav"),
        ("libx264", "flv", "pyav"),
        ("mpeg4", "avi", "pyav"),
    ],
)
def test_each_codec_has_its_reader_and_the_right_frames(
    tmp_path: Path, codec: str, form: str, decoder: str
) -> None:
    frames = numbered_frames(40, 64, 64)
    path = write_clip(tmp_path / "clip", frames, container_format=form, codec=codec)
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    assert frame_numbers(video.frames) == [7, 15, 23, 31, 39]
    assert video.info.decoder == decoder
    assert video.info.duration_s == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize(
    ("fps", "num_frames", "official", "by_time"),
    [
        (Fraction(24000, 1001), 60, [22, 46], [22, 46]),
        (15, 40, [14, 29], [14, 29]),
        (1, 4, [0, 1, 2, 3], [0, 1, 2, 3]),
        (Fraction(1, 2), 3, [0, 1, 2], [0, 0, 1, 1, 2, 2]),
        (50, 60, [46], [46]),
        (Fraction(2997, 100), 62, [28, 58], [28, 58]),
    ],
)
def test_odd_rates(
    tmp_path: Path,
    fps: Fraction | int,
    num_frames: int,
    official: list[int],
    by_time: list[int],
) -> None:
    path = write_clip(tmp_path / "clip.mp4", numbered_frames(num_frames), fps=fps)
    both = {}
    for sampling in Sampling:
        both[sampling] = _read_by_both(path, sampling)
    assert both[Sampling.OFFICIAL] == (official, official)
    assert both[Sampling.TIME] == (by_time, by_time)


def test_120_frames_a_second(tmp_path: Path) -> None:
    frames = np.zeros((250, 48, 64, 3), np.uint8)
    frames[112], frames[232] = 100, 200
    path = write_clip(tmp_path / "clip.mp4", frames, fps=120)
    for sampling in Sampling:
        video = decode_video(path, size_px=None, sampling=sampling)
        assert [round(float(f.mean()), -2) for f in video.frames] == [100, 200]


def _read_by_both(path: Path, sampling: Sampling) -> tuple[list[int], list[int]]:
    track = read_track(path)
    plan = SamplePlan(
        sampling=sampling, num_frames=None, size_px=None, max_duration_s=60, fps=track.fps
    )
    decord, pyav = read_with_decord(path, plan), read_with_pyav(path, plan, track)
    np.testing.assert_allclose(decord.frame_time_s, pyav.frame_time_s, atol=1e-5)
    assert decord.end_s == pytest.approx(pyav.end_s, abs=1e-3)
    assert decord.num_decoded == pyav.num_decoded
    return frame_numbers(decord.frames), frame_numbers(pyav.frames)


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts", "flv"])
def test_time_zero_is_the_first_frame(tmp_path: Path, form: str) -> None:
    path = write_clip(tmp_path / "clip", numbered_frames(40), container_format=form, start=80)
    for sampling in Sampling:
        video = decode_video(path, size_px=None, sampling=sampling)
        assert frame_numbers(video.frames) == [7, 15, 23, 31, 39]
        assert video.frame_time_s[0] == pytest.approx(7 / 8, abs=0.07)
    # flv states the length from the first packet, which is decoded before it is shown
    assert probe(path).duration_s == pytest.approx(5, abs=0.26)


@pytest.mark.parametrize("codec", ["x264", "x265"])
@pytest.mark.parametrize("is_open", [0, 1])
@pytest.mark.parametrize("cuts", [":scenecut=0", ""])
def test_pictures_before_their_key_frame_are_not_lost(
    tmp_path: Path, codec: str, is_open: int, cuts: str
) -> None:
    """Open groups of pictures: decord, seeking to the key frame, takes later frames for these."""
    groups = f"open-gop={is_open}:keyint=16:min-keyint=16:bframes=3:b-adapt=0{cuts}"
    quiet = ":log-level=none" if codec == "x265" else ""
    path = write_clip(
        tmp_path / "clip.mp4",
        numbered_frames(64),
        codec=f"lib{codec}",
        encoder_options={f"{codec}-params": groups + quiet},
    )
    expected = np.array([7, 15, 23, 31, 39, 47, 55, 63]) * 4
    for sampling in Sampling:
        video = decode_video(path, size_px=None, sampling=sampling)
        np.testing.assert_allclose(video.frames.mean(axis=(1, 2, 3)), expected, atol=1.9)
    assert video.info.decoder == ("pyav" if is_open else "decord")


def test_what_an_editor_cut_away_is_not_shown(tmp_path: Path) -> None:
    """Phones trim by an edit list: decord would show what the owner cut away."""
    path = write_clip(tmp_path / "clip.mp4", numbered_frames(40))
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    length, start = struct.unpack_from(">Ii", data, at)
    assert (length, start > 0) == (5000, True)
    struct.pack_into(">Ii", data, at, 3000, start + 16384 * 10 // 8)
    path.write_bytes(data)
    for sampling in Sampling:
        video = decode_video(path, size_px=None, sampling=sampling)
        assert frame_numbers(video.frames) == [17, 25, 33]
        assert video.info.decoder == "pyav"
    assert video.info.duration_s == pytest.approx(3)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.JPEG])
@pytest.mark.parametrize("matrix", [Colorspace.ITU601, Colorspace.ITU709])
def test_colours_are_right_whatever_the_depth_range_and_matrix(
    tmp_path: Path, codec: str, pix_fmt: str, color_range: ColorRange, matrix: Colorspace
) -> None:
    colours = np.array([(200, 40, 30), (20, 180, 60), (255, 255, 255), (0, 0, 0)], np.uint8)
    picture = np.repeat(np.repeat(colours[None], 16, axis=1), 48, axis=0)
    path = tmp_path / "clip.mp4"
    number = 1 if matrix is Colorspace.ITU709 else 6
    with av.open(str(path), mode="w", format="mp4") as container:
        stream = add_video(container, fps=8, codec=codec, pix_fmt=pix_fmt)
        stream.codec_context.color_range = color_range
        stream.codec_context.colorspace = number
        for _ in range(8):
            frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=matrix, dst_color_range=color_range
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    seen = video.frames[0][24, 8::16].astype(int)
    assert np.abs(seen - colours).max() <= 5
    assert video.info.decoder == ("decord" if pix_fmt == "yuv420p" else "pyav")


def _tone(hz: int, seconds: int = 3) -> NDArray[np.float32]:
    t = np.arange(seconds * 16000) / 16000
    return (0.5 * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def _pitch(samples: NDArray[np.float32] | None) -> int:
    assert samples is not None
    return int(np.abs(np.fft.rfft(samples[16000:32000])).argmax())


@pytest.mark.parametrize("default", [0, 1])
@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_among_several_tracks_the_default_one_is_taken(
    tmp_path: Path, form: str, default: int
) -> None:
    path = tmp_path / "clip"
    with av.open(str(path), mode="w", format=form) as container:
        videos = [add_video(container, fps=8, size_px=(48, 64)) for _ in range(2)]
        sounds = [add_sound(container, "aac", 16000) for _ in range(2)]
        for streams in (videos, sounds):
            for index, stream in enumerate(streams):
                stream.disposition = Disposition.default if index == default else Disposition(0)
        pictures = [numbered_frames(24), numbered_frames(48)[24:]]
        mux_in_order(
            container,
            *[encode_video(v, p) for v, p in zip(videos, pictures, strict=True)],
            *[encode_sound(s, (0.0, _tone(hz))) for s, hz in zip(sounds, (440, 880), strict=True)],
        )
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    first = 24 * default
    assert frame_numbers(video.frames) == [first + 7, first + 15, first + 23]
    assert _pitch(video.samples) == (440, 880)[default]
    assert _pitch(read_audio(path)) == (440, 880)[default]
    assert video.info.decoder == "pyav"  # so that no other choice can be made


@pytest.mark.parametrize(("form", "codec"), [("webm", "libvpx-vp9"), ("matroska", "libx264")])
def test_a_recording_without_a_stated_length(tmp_path: Path, form: str, codec: str) -> None:
    """As browsers record: written to a stream, nothing is filled in afterwards."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        seek = tell = None  # type: ignore[assignment]

    pipe = Pipe()
    with av.open(pipe, mode="w", format=form, options={"live": "1"}) as container:
        stream = add_video(container, fps=8, codec=codec)
        mux_in_order(container, encode_video(stream, numbered_frames(40)))
    path = tmp_path / "clip"
    path.write_bytes(pipe.getvalue())
    assert read_track(path).duration_s is None
    assert probe(path).duration_s == pytest.approx(5, abs=0.13)
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    assert frame_numbers(video.frames) == [7, 15, 23, 31, 39]
    assert video.info.duration_s == pytest.approx(5, abs=0.13)
    part = decode_video(path, size_px=None, sampling=Sampling.TIME, num_frames=2)
    assert frame_numbers(part.frames) == [7, 15]


def test_decord_says_when_it_cannot(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "av1.mp4", numbered_frames(8, 64, 64), codec="libsvtav1")
    plan = SamplePlan(sampling=Sampling.TIME, num_frames=1, size_px=None, max_duration_s=60, fps=8)
    with pytest.raises(DecordError):
        read_with_decord(path, plan)
