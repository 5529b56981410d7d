"""Sound and picture stay together: a clip with clicks and flashes at known times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_clips import add_sound, add_video, encode_sound, encode_video, mux_in_order
from numpy.typing import NDArray

from avs.media.audio import SAMPLE_RATE_HZ
from avs.media.video import Sampling, decode_video

FPS = 24
FRAME_S = 1 / FPS
LENGTH_S = 6
# The second is on the screen at 2 + 15/16 s, so that reading one frame a second shows it.
EVENTS_S = (1.5, 70 / FPS, 4.25)
CONTAINERS = [
    ("mp4", "libx264", "aac", 44100),
    ("mp4", "libx265", "aac", 48000),
    ("mov", "mpeg4", "pcm_s16le", 22050),
    ("matroska", "libx264", "libmp3lame", 44100),
    ("matroska", "libx265", "flac", 48000),
    ("webm", "libvpx-vp9", "libopus", 48000),
    ("mpegts", "libx264", "aac", 44100),
    ("avi", "mpeg4", "libmp3lame", 44100),
    ("flv", "libx264", "aac", 44100),
]
SHIFTED = [c for c in CONTAINERS if c[:2] != ("mp4", "libx265") and c[0] not in ("avi", "mov")]


def _flashes() -> NDArray[np.uint8]:
    frames = np.zeros((LENGTH_S * FPS, 48, 64, 3), np.uint8)
    for event_s in EVENTS_S:
        frames[round(event_s * FPS)] = 255
    return frames


def _clicks(rate_hz: int, from_s: float) -> NDArray[np.float32]:
    """3 ms of 2 kHz at each event, from ``from_s`` on."""
    samples = np.zeros(LENGTH_S * rate_hz, np.float32)
    burst = np.sin(2 * np.pi * 2000 * np.arange(round(0.003 * rate_hz)) / rate_hz)
    for event_s in EVENTS_S:
        first = round(event_s * rate_hz)
        samples[first : first + len(burst)] = burst
    return samples[round(from_s * rate_hz) :]


def _write(
    path: Path, form: tuple[str, str, str, int], *, shift_s: float = 0.0, late_s: float = 0.0
) -> Path:
    name, video_codec, sound_codec, rate_hz = form
    with av.open(str(path), mode="w", format=name) as container:
        video = add_video(container, fps=FPS, codec=video_codec)
        sound = add_sound(container, sound_codec, rate_hz)
        mux_in_order(
            container,
            encode_video(video, _flashes(), start=round(shift_s * FPS)),
            encode_sound(sound, (shift_s + late_s, _clicks(rate_hz, late_s))),
        )
    return path


def _click_times_s(samples: NDArray[np.float32]) -> list[float]:
    loud = np.flatnonzero(np.abs(samples) > 0.25)
    starts = loud[np.diff(loud, prepend=-SAMPLE_RATE_HZ) > SAMPLE_RATE_HZ // 4]
    return [float(s) / SAMPLE_RATE_HZ for s in starts]


def _flash_times_s(path: Path) -> list[float]:
    """Times of the flashes, found by windows of one frame around each."""
    found = []
    for event_s in EVENTS_S:
        for step in range(-1, 2):
            shown_s = event_s + (step + 0.5) * FRAME_S
            video = decode_video(
                path,
                size_px=(8, 8),
                sampling=Sampling.TIME,
                num_frames=1,
                start_s=shown_s - 15 / 16,
                with_audio=False,
            )
            if video.frames.mean() > 128:
                found.append(shown_s - 0.5 * FRAME_S)
    return found


def _check(path: Path) -> None:
    video = decode_video(path, size_px=(8, 8), sampling=Sampling.TIME)
    assert len(video.frames) == LENGTH_S
    assert [bool(frame.mean() > 128) for frame in video.frames] == [k == 2 for k in range(6)]
    assert video.samples is not None
    assert not video.warnings
    np.testing.assert_allclose(_click_times_s(video.samples), EVENTS_S, atol=FRAME_S)
    np.testing.assert_allclose(_flash_times_s(path), EVENTS_S, atol=0.26 * FRAME_S)


@pytest.mark.parametrize("form", CONTAINERS, ids=lambda c: "-".join(map(str, c)))
def test_clicks_and_flashes_are_where_they_were_put(
    tmp_path: Path, form: tuple[str, str, str, int]
) -> None:
    _check(_write(tmp_path / "clip", form))


@pytest.mark.parametrize("form", SHIFTED, ids=lambda c: "-".join(map(str, c)))
def test_a_first_time_stamp_that_is_not_zero_changes_nothing(
    tmp_path: Path, form: tuple[str, str, str, int]
) -> None:
    _check(_write(tmp_path / "clip", form, shift_s=10.0))


@pytest.mark.parametrize("form", SHIFTED, ids=lambda c: "-".join(map(str, c)))
def test_sound_that_starts_after_the_picture_is_not_moved(
    tmp_path: Path, form: tuple[str, str, str, int]
) -> None:
    _check(_write(tmp_path / "clip", form, shift_s=4.0, late_s=1.25))


def test_a_hole_in_the_sound_track_is_filled(tmp_path: Path) -> None:
    """A recorder that stopped for a second: the time stamps say so, the samples do not."""
    path = tmp_path / "clip.mkv"
    with av.open(str(path), mode="w", format="matroska") as container:
        video = add_video(container, fps=FPS)
        sound = add_sound(container, "pcm_s16le", 16000)
        clicks = _clicks(16000, 0.0)
        mux_in_order(
            container,
            encode_video(video, _flashes()),
            encode_sound(sound, (0.0, clicks[: 2 * 16000]), (4.0, clicks[4 * 16000 :])),
        )
    samples = decode_video(path, size_px=(8, 8), sampling=Sampling.TIME).samples
    assert samples is not None
    np.testing.assert_allclose(_click_times_s(samples), [1.5, 4.25], atol=1e-3)
    assert len(samples) == pytest.approx(LENGTH_S * 16000, abs=200)


@pytest.mark.parametrize("form", CONTAINERS, ids=lambda c: "-".join(map(str, c)))
def test_the_sound_of_a_window_is_that_of_the_whole(
    tmp_path: Path, form: tuple[str, str, str, int]
) -> None:
    path = _write(tmp_path / "clip", form)
    window = decode_video(path, size_px=(8, 8), sampling=Sampling.TIME, start_s=4, num_frames=2)
    assert window.samples is not None
    assert _click_times_s(window.samples) == pytest.approx([0.25], abs=FRAME_S)


@pytest.mark.parametrize("start_s", [4.0, 3.25])
def test_a_window_before_the_sound_begins_is_silent_up_to_it(
    tmp_path: Path, start_s: float
) -> None:
    path = _write(tmp_path / "clip", ("matroska", "libx264", "flac", 44100), late_s=4.2)
    video = decode_video(path, size_px=(8, 8), sampling=Sampling.TIME, start_s=start_s)
    assert video.samples is not None
    assert _click_times_s(video.samples) == pytest.approx([4.25 - start_s], abs=0.002)


def test_a_variable_rate_keeps_the_flash_at_its_time(tmp_path: Path) -> None:
    path = tmp_path / "vfr.mp4"
    ticks = Fraction(1, 1000)
    times_ms = [0, 40, 700, 740, 1500, 1540, 2600, 2917, 2957, 4000, 4250, 4290, 5900]
    frames = np.zeros((len(times_ms), 48, 64, 3), np.uint8)
    for event_s in EVENTS_S:
        frames[times_ms.index(round(1000 * event_s))] = 255
    with av.open(str(path), mode="w", format="mp4") as container:
        video = add_video(container, fps=25, time_base=ticks)
        sound = add_sound(container, "aac", 44100)
        mux_in_order(
            container,
            encode_video(video, frames, pts=times_ms, time_base=ticks),
            encode_sound(sound, (0.0, _clicks(44100, 0.0))),
        )
    np.testing.assert_allclose(_flash_times_s(path), EVENTS_S, atol=0.26 * FRAME_S)
    samples = decode_video(path, size_px=(8, 8), sampling=Sampling.TIME).samples
    assert samples is not None
    np.testing.assert_allclose(_click_times_s(samples), EVENTS_S, atol=FRAME_S)
