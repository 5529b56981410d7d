"""Windows of a video: every frame once, real seconds where there are enough."""

from __future__ import annotations

import numpy as np
import pytest

from avs.windows import Window, cut_sound, plan_windows

ALL = [(n, t) for n in range(1, 41) for t in range(1, 11)]


def test_every_frame_is_kept_once_and_in_order() -> None:
    for num_frames, t in ALL:
        windows = plan_windows(num_frames, window_frames=t)
        kept = [w.indices[position] for w in windows for position in w.new]
        assert kept == list(range(num_frames)), (num_frames, t)


def test_every_window_shows_t_frames_in_a_row_and_pads_only_short_videos() -> None:
    for num_frames, t in ALL:
        for window in plan_windows(num_frames, window_frames=t):
            assert len(window.indices) == t
            assert window.num_valid == min(num_frames, t)
            real = window.indices[: window.num_valid]
            assert real == tuple(range(window.start, window.start + window.num_valid))
            assert set(window.indices[window.num_valid :]) <= {num_frames - 1}


def test_a_short_last_window_is_moved_back_to_end_with_the_video() -> None:
    last = plan_windows(12, window_frames=5)[-1]
    assert last == Window(start=7, indices=(7, 8, 9, 10, 11), new=(3, 4), num_valid=5)


def test_a_video_shorter_than_a_window_repeats_its_last_frame() -> None:
    (only,) = plan_windows(2, window_frames=4)
    assert only == Window(start=0, indices=(0, 1, 1, 1), new=(0, 1), num_valid=2)


def test_a_video_without_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_frames=0"):
        plan_windows(0, window_frames=5)


@pytest.mark.parametrize("num_samples", [0, 3, 70, 75, 120, 500])
def test_the_sound_of_a_window_is_its_seconds_and_zeros_after_the_end(num_samples: int) -> None:
    samples = np.arange(1, num_samples + 1, dtype=np.float32)
    for window in plan_windows(12, window_frames=5):
        sound = cut_sound(samples, window, sample_rate_hz=10, window_frames=5)
        assert sound.dtype == np.float32
        wanted = [k + 1 if k < num_samples else 0 for k in range(window.start * 10, 10**4)][:50]
        assert sound.tolist() == wanted
