"""Frames and sound of videos: which frame, which size, which reader, and what is an error."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from media_clips import frame_number, numbered_frames

from avs.errors import MediaError
from avs.media.encoding import write_mp4
from avs.media.video import Sampling, decode_video, probe

HOSTILE_NAMES = [
    "two words.mp4",
    'it\'s "quoted".mp4',
    "a=b,c;d&e.mp4",
    "[1] {x} (y)%20*?.mp4",
    "http:file.mp4",
    "concat:a|b.mp4",
    "-i.mp4",
    "наука-音.mp4",
    "new\nline.mp4",
]


@pytest.fixture(params=["decord", "pyav"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both readers in turn, PyAV by making decord fail on every file."""
    name: str = request.param
    if name == "pyav":
        _without_decord(monkeypatch)
    return name


def _without_decord(monkeypatch: pytest.MonkeyPatch) -> None:
    import decord

    def refuse(*_: object, **__: object) -> None:
        raise decord.DECORDError("cannot read this")

    monkeypatch.setattr(decord, "VideoReader", refuse)


def test_official_rule_takes_the_last_sixteenth_of_each_second(
    numbered_mp4: Path, reader: str
) -> None:
    video = decode_video(numbered_mp4, size_px=None, sampling=Sampling.OFFICIAL, num_frames=5)
    assert [frame_number(f) for f in video.frames] == [7, 15, 23, 31, 39]
    np.testing.assert_allclose(video.frame_time_s, np.array([7, 15, 23, 31, 39]) / 8)
    assert video.info.decoder == reader


def test_official_rule_repeats_the_last_frame_past_the_end(numbered_mp4: Path, reader: str) -> None:
    video = decode_video(numbered_mp4, size_px=None, sampling=Sampling.OFFICIAL, num_frames=7)
    assert [frame_number(f) for f in video.frames] == [7, 15, 23, 31, 39, 39, 39]
    assert video.info.decoder == reader


def test_official_rule_rounds_the_frame_rate(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "ntsc.mp4"
    write_mp4(path, numbered_frames(60), fps=30000 / 1001, samples=None)
    video = decode_video(path, size_px=None, sampling=Sampling.OFFICIAL, num_frames=2)
    assert [frame_number(f) for f in video.frames] == [28, 58]
    assert video.info.decoder == reader


def test_time_rule_takes_the_frame_shown_at_15_16(numbered_mp4: Path, reader: str) -> None:
    video = decode_video(numbered_mp4, size_px=None, sampling=Sampling.TIME)
    assert [frame_number(f) for f in video.frames] == [7, 15, 23, 31, 39]
    np.testing.assert_allclose(video.frame_time_s, np.arange(5) + 15 / 16)
    assert video.info.decoder == reader


@pytest.mark.parametrize(("num_frames", "count"), [(7, 1), (15, 1), (16, 2), (20, 2), (40, 5)])
def test_time_rule_has_one_frame_for_every_full_second(
    tmp_path: Path, reader: str, num_frames: int, count: int
) -> None:
    path = tmp_path / "clip.mp4"
    write_mp4(path, numbered_frames(num_frames), fps=8, samples=None)
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    assert len(video.frames) == count
    assert video.info.num_frames == num_frames
    assert video.info.duration_s == pytest.approx(num_frames / 8)
    assert frame_number(video.frames[0]) == min(7, num_frames - 1)
    assert reader == video.info.decoder


def test_time_rule_goes_by_time_stamps_where_the_rate_varies(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "vfr.mp4"
    times_s = [0.0, 0.1, 0.2, 1.5, 1.6, 1.9, 2.95]
    _write_vfr(path, times_s)
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    assert [frame_number(f) for f in video.frames[:2]] == [2, 5]
    assert video.info.decoder == reader


def _write_vfr(path: Path, times_s: list[float]) -> None:
    with av.open(str(path), mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time_s in zip(numbered_frames(len(times_s)), times_s, strict=True):
            frame = VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_both_readers_give_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "noise.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (24, 6, 8, 3), np.uint8)
    write_mp4(path, noise.repeat(8, 1).repeat(8, 2), fps=8, samples=None)
    for sampling in Sampling:
        first = decode_video(path, size_px=(30, 50), sampling=sampling, num_frames=3)
        with monkeypatch.context() as patch:
            _without_decord(patch)
            second = decode_video(path, size_px=(30, 50), sampling=sampling, num_frames=3)
        assert (first.info.decoder, second.info.decoder) == ("decord", "pyav")
        np.testing.assert_array_equal(first.frames, second.frames)
        np.testing.assert_allclose(first.frame_time_s, second.frame_time_s, atol=1e-6)


def test_frames_have_the_size_asked_for(numbered_mp4: Path, reader: str) -> None:
    video = decode_video(numbered_mp4, size_px=(30, 20), sampling=Sampling.TIME)
    assert video.frames.shape == (5, 30, 20, 3)
    assert (video.info.height_px, video.info.width_px) == (48, 64)
    assert video.info.decoder == reader


def test_pixel_aspect_is_part_of_the_displayed_size(tmp_path: Path) -> None:
    path = tmp_path / "anamorphic.mp4"
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=8)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for pixels in numbered_frames(8):
            container.mux(stream.encode(VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    assert video.frames.shape == (1, 48, 96, 3)
    assert (probe(path).height_px, probe(path).width_px) == (48, 96)


def test_sound_comes_with_the_frames(numbered_mp4: Path) -> None:
    video = decode_video(numbered_mp4, size_px=None, sampling=Sampling.TIME)
    assert video.samples is not None
    assert video.samples.dtype == np.float32
    assert 5 * 16000 <= len(video.samples) <= 5.1 * 16000
    spectrum = np.abs(np.fft.rfft(video.samples[16000:32000]))
    assert int(spectrum.argmax()) == 440
    without = decode_video(numbered_mp4, size_px=None, sampling=Sampling.TIME, with_audio=False)
    assert without.samples is None
    assert without.info.has_audio


def test_sound_is_no_longer_than_the_frames_need(numbered_mp4: Path) -> None:
    video = decode_video(numbered_mp4, size_px=None, sampling=Sampling.TIME, num_frames=2)
    assert len(video.frames) == 2
    assert video.samples is not None
    assert len(video.samples) == 3 * 16000


def test_a_video_without_a_sound_track_has_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    write_mp4(path, numbered_frames(8), fps=8, samples=None)
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    assert video.samples is None
    assert not video.info.has_audio


def test_sound_starts_with_the_first_frame(tmp_path: Path) -> None:
    """A track that starts a second after the picture is preceded by a second of silence."""
    path = tmp_path / "late.mkv"
    with av.open(str(path), mode="w", format="matroska") as container:
        video = container.add_stream("libx264", rate=8)
        assert isinstance(video, VideoStream)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for pixels in numbered_frames(24):
            container.mux(video.encode(VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(
            np.full((1, 16000), 8000, np.int16), format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = 16000, 16000, Fraction(1, 16000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    samples = decode_video(path, size_px=None, sampling=Sampling.TIME).samples
    assert samples is not None
    assert len(samples) == 32000
    assert not samples[:15900].any()
    assert samples[16100:31900].min() > 0.2


def test_longer_videos_than_allowed_are_refused(numbered_mp4: Path, reader: str) -> None:
    with pytest.raises(MediaError, match=r"lasts 5\.0 s, more than the limit of 3 s"):
        decode_video(numbered_mp4, size_px=None, sampling=Sampling.TIME, max_duration_s=3)
    decode_video(numbered_mp4, size_px=None, sampling=Sampling.TIME, max_duration_s=5)
    assert reader


def test_a_cut_off_file_is_a_media_error_that_names_it(numbered_mp4: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(numbered_mp4.read_bytes()[: numbered_mp4.stat().st_size // 2])
    for call in (probe, lambda p: decode_video(p, size_px=None, sampling=Sampling.TIME)):
        with pytest.raises(MediaError, match="cut off") as error:
            call(path)
        assert str(path) in str(error.value)


def test_sound_alone_has_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "sound.m4a"
    with av.open(str(path), mode="w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(MediaError, match="has no video stream"):
        decode_video(path, size_px=None, sampling=Sampling.TIME)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_any_file_name_is_only_a_name(numbered_mp4: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(numbered_mp4.read_bytes())
    video = decode_video(path, size_px=(8, 8), sampling=Sampling.TIME, num_frames=1)
    assert frame_number(video.frames[0]) == 7
    assert video.info.decoder == "decord"
    assert probe(path).duration_s == pytest.approx(5.0)


def test_relative_names_that_look_like_protocols(
    numbered_mp4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:x.mp4", "-y.mp4"):
        Path(name).write_bytes(numbered_mp4.read_bytes())
        video = decode_video(name, size_px=(8, 8), sampling=Sampling.TIME, num_frames=1)
        assert video.info.decoder == reader


def _remuxed(source: Path, target: Path, name: str, options: dict[str, str]) -> None:
    with (
        av.open(str(source)) as old,
        av.open(str(target), mode="w", format=name, options=options) as new,
    ):
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)


@pytest.mark.parametrize(
    ("name", "options"), [("mp4", {"movflags": "+faststart"}), ("matroska", {}), ("flv", {})]
)
def test_downloads_that_stopped_are_noticed(
    numbered_mp4: Path, tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    """With the index in front, decoders end early without a word."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _remuxed(numbered_mp4, whole, name, options)
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    assert len(decode_video(whole, size_px=(8, 8), sampling=Sampling.TIME).frames) == 5
    with pytest.raises(MediaError, match="is cut off"):
        decode_video(cut, size_px=(8, 8), sampling=Sampling.TIME)


def test_avi_frames_go_by_their_rate(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    with av.open(str(path), mode="w", format="avi") as container:
        stream = container.add_stream("libx264", rate=8)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in numbered_frames(40):
            container.mux(stream.encode(VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    assert [frame_number(f) for f in video.frames] == [7, 15, 23, 31, 39]
