"""More than one sample a second: which frames, their pieces, and the rounds of their windows."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_clips import frame_numbers, numbered_frames, write_clip

from avs.media import pieces
from avs.media.decord_reader import read_with_decord
from avs.media.encoding import write_mp4
from avs.media.pieces import MediaPart, MediaWindow, decode_pieces, media_rounds, media_windows
from avs.media.probing import read_track
from avs.media.pyav_reader import read_with_pyav
from avs.media.sampling import SamplePlan, native_rate
from avs.media.video import DecodedVideo, Sampling, decode_video

RATE_HZ = 16000


def _plan(**changes: Any) -> SamplePlan:
    common = {"num_frames": None, "size_px": None, "max_duration_s": 60.0, "fps": 8.0}
    return SamplePlan(**{"sampling": Sampling.TIME, **common, **changes})


@pytest.mark.parametrize("start_s", [0.0, 4.1, 6.35, 3601.0])
def test_one_sample_a_second_has_the_times_that_it_always_had(start_s: float) -> None:
    plan = _plan(start_s=start_s)
    assert [plan.at_s(k) for k in range(50)] == [start_s + k + 15 / 16 for k in range(50)]
    assert plan.num_samples(0, start_s + 7.94) == 8
    assert plan.num_samples(0, start_s + 7.93) == 7


@pytest.mark.parametrize("rate", [2, 3, 25, 120])
def test_a_sample_has_the_same_time_from_every_whole_second_on(rate: int) -> None:
    whole, later = _plan(samples_per_s=rate), _plan(samples_per_s=rate, start_s=7.0)
    assert [later.at_s(k) for k in range(300)] == [whole.at_s(7 * rate + k) for k in range(300)]


@pytest.mark.parametrize("rate", [1, 2, 3, 8, 20])
def test_both_readers_take_the_frame_shown_at_15_16_of_each_part(tmp_path: Path, rate: int) -> None:
    path = write_clip(tmp_path / "clip.mp4", numbered_frames(37))
    track, plan = read_track(path), _plan(samples_per_s=rate)
    count = int(37 / 8 * rate + 1 / 16)
    wanted = [int((k + 15 / 16) / rate * 8) for k in range(count)]
    for found in (read_with_decord(path, plan), read_with_pyav(path, plan, track)):
        assert frame_numbers(found.frames) == [min(n, 36) for n in wanted]
        np.testing.assert_allclose(found.frame_time_s, (np.arange(count) + 15 / 16) / rate)


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(25, 25), (29.97, 30), (30000 / 1001, 30), (24000 / 1001, 24), (0.5, 1), (240, 120)],
)
def test_the_native_rate_is_that_of_the_frames(fps: float, rate: int) -> None:
    assert native_rate(fps) == rate
    assert native_rate(fps + 2e-4) == rate, "an average that is not quite exact"


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi"])
@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(120)])
def test_the_native_rate_takes_every_frame(tmp_path: Path, form: str, fps: Fraction) -> None:
    codec = "mpeg4" if form == "avi" else "libx264"
    path = write_clip(
        tmp_path / "clip", numbered_frames(60), fps=fps, codec=codec, container_format=form
    )
    rate = native_rate(read_track(path).fps)
    video = decode_video(path, size_px=None, sampling=Sampling.TIME, samples_per_s=rate)
    assert frame_numbers(video.frames) == list(range(60))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples_per_s": 0}, "samples_per_s=0 must be between 1 and 120"),
        ({"samples_per_s": 121}, "samples_per_s=121 must be between 1 and 120"),
        ({"samples_per_s": 2, "sampling": Sampling.OFFICIAL}, "must be 1 by the official rule"),
        ({"samples_per_s": 2, "times_s": (0.5,)}, "times_s gives one time a second"),
    ],
)
def test_rates_that_mean_nothing_are_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _plan(**changes)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 s and 5 frames at 8 a second with a chirp."""
    path = tmp_path_factory.mktemp("rates") / "clip.mp4"
    t = np.arange(round(61 / 8 * RATE_HZ)) / RATE_HZ
    chirp = (0.5 * np.sin(300 * t * (1 + t))).astype(np.float32)
    write_mp4(path, numbered_frames(61), fps=8, samples=chirp)
    return path


def test_the_sound_is_as_long_as_the_seconds_of_the_samples(clip: Path) -> None:
    video = decode_video(
        clip, size_px=None, sampling=Sampling.TIME, samples_per_s=4, num_frames=8, start_s=1.0
    )
    assert len(video.frames) == 8
    assert video.samples is not None
    assert len(video.samples) == 3 * RATE_HZ, "two seconds, and the one more of every piece"


@pytest.mark.parametrize(
    ("piece_s", "rate", "window_frames", "lengths"),
    [
        (6, 3, 1, [6, 6, 6, 4]),  # two seconds
        (6, 3, 3, [9, 9, 4]),  # no less than a window
        (13, 3, 2, [12, 10]),  # whole windows
        (5, 1, 2, [4, 3]),
        (5, 1, 5, [5, 2]),
        (300, 25, 5, [190]),
    ],
)
def test_pieces_of_many_samples_are_the_whole(
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    piece_s: int,
    rate: int,
    window_frames: int,
    lengths: list[int],
) -> None:
    whole = decode_video(clip, size_px=None, sampling=Sampling.TIME, samples_per_s=rate)
    monkeypatch.setattr(pieces, "PIECE_S", piece_s)
    asked: list[int] = []

    def decode(path: str, **options: Any) -> DecodedVideo:
        asked.append(options["num_frames"])
        return decode_video(path, **options)

    found = list(
        decode_pieces(
            str(clip),
            size_px=None,
            samples_per_s=rate,
            window_frames=window_frames,
            decode=decode,
        )
    )
    assert [len(v.frames) for v in found] == lengths
    assert max(asked) <= max(piece_s, window_frames * rate) + 1
    np.testing.assert_array_equal(np.concatenate([v.frames for v in found]), whole.frames)
    assert np.concatenate([v.frame_time_s for v in found]).tolist() == whole.frame_time_s.tolist()
    samples = np.concatenate([v.samples for v in found if v.samples is not None])
    assert whole.samples is not None
    np.testing.assert_allclose(samples[: 7 * RATE_HZ], whole.samples[: 7 * RATE_HZ], atol=2e-4)


def _part(first_s: int, count: int, rate: int, sound_s: float) -> MediaPart:
    """``count`` samples from second ``first_s`` on; frame k holds the number k."""
    numbers = np.arange(first_s * rate, first_s * rate + count)
    end_s = min(sound_s, first_s + np.ceil(count / rate))
    samples = np.arange(first_s * RATE_HZ, round(end_s * RATE_HZ)).astype(np.float32)
    return MediaPart(
        frames=numbers.astype(np.uint8)[:, None, None, None],
        frame_time_s=(numbers + 15 / 16) / rate,
        samples=samples if len(samples) else None,
    )


def _parts(count: int, rate: int, length_s: int, sound_s: float) -> list[MediaPart]:
    step = length_s * rate
    return [
        _part(first // rate, min(step, count - first), rate, sound_s)
        for first in range(0, count, step)
    ]


def _same(one: MediaWindow, other: MediaWindow) -> bool:
    sounds = [np.zeros(1) if w.sound is None else w.sound for w in (one, other)]
    return (
        one.window == other.window
        and np.array_equal(one.frames, other.frames)
        and np.array_equal(one.frame_time_s, other.frame_time_s)
        and np.array_equal(*sounds)
    )


@pytest.mark.parametrize("count", [1, 2, 5, 9, 13, 29, 30, 31, 47])
@pytest.mark.parametrize("rate", [1, 3, 4])
@pytest.mark.parametrize("window_frames", [1, 2, 5])
def test_every_phase_is_a_video_of_one_frame_a_second(
    count: int, rate: int, window_frames: int
) -> None:
    seconds = count // rate + 1
    (whole,) = _parts(count, rate, seconds, seconds)
    wanted = [
        list(media_windows([phase], window_frames=window_frames))
        for p in range(min(rate, count))
        for phase in [
            MediaPart(
                frames=whole.frames[p::rate],
                frame_time_s=whole.frame_time_s[p::rate],
                samples=whole.samples,
            )
        ]
    ]
    for length_s in (window_frames, 2 * window_frames, seconds + window_frames):
        length_s -= length_s % window_frames
        parts = _parts(count, rate, length_s, seconds)
        rounds = list(media_rounds(parts, window_frames=window_frames, samples_per_s=rate))
        assert [len(r) for r in rounds] == [
            sum(len(windows) > k for windows in wanted) for k in range(len(wanted[0]))
        ]
        for k, found in enumerate(rounds):
            expected = [windows[k] for windows in wanted if len(windows) > k]
            assert all(map(_same, found, expected)), (length_s, k)


@pytest.mark.parametrize("count", [1, 3, 29, 31, 47])
def test_the_frames_of_a_round_follow_those_of_the_round_before(count: int) -> None:
    rounds = media_rounds(_parts(count, 3, 10, 0.0), window_frames=5, samples_per_s=3)
    kept = [sorted(int(w.frames[t].item()) for w in r for t in w.window.new) for r in rounds]
    assert [number for numbers in kept for number in numbers] == list(range(count))


def test_a_part_is_asked_for_when_the_one_before_is_done() -> None:
    given = []

    def parts() -> Iterator[MediaPart]:
        for part in _parts(30, 3, 5, 10.0):
            given.append(len(part.frames))
            yield part

    rounds = media_rounds(parts(), window_frames=5, samples_per_s=3)
    for number in (1, 2):
        assert len(next(rounds)) == 3
        assert len(given) == number
