"""What a live session remembers: sound by its times, frames a second apart, and its pace."""

from __future__ import annotations

import numpy as np
import pytest

from avs.serving.live_state import Pace, PastFrames, SoundRing

SECOND = 16_000


def _int16(ring: SoundRing, end_s: float, num_seconds: int) -> np.ndarray:
    samples = ring.read(end_s, num_seconds)
    assert samples.dtype == np.float32
    assert samples.shape == (num_seconds * SECOND,)
    return (samples * 32768).astype(np.int16)


def _sound(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32767, count).astype(np.int16)


def test_pieces_of_sound_lie_where_their_times_say() -> None:
    ring, rng = SoundRing(3), np.random.default_rng(0)
    line = np.zeros(40 * SECOND, np.int16)
    start = 5 * SECOND
    for k in range(200):
        piece = _sound(k, int(rng.integers(1, SECOND)))
        ring.write(start / SECOND, piece)
        line[start : start + len(piece)] = piece
        end = start + len(piece)
        newest = int(np.flatnonzero(line)[-1] + 1)
        for back in (0, 1600, SECOND):
            wanted = line[newest - back - 3 * SECOND : newest - back]
            np.testing.assert_array_equal(_int16(ring, (newest - back) / SECOND, 3), wanted)
        start = max(start, end + int(rng.integers(-SECOND // 4, SECOND // 4)))
        if start > 38 * SECOND:
            break
    assert k > 50


def test_a_piece_longer_than_the_ring_leaves_its_end() -> None:
    ring, piece = SoundRing(2), _sound(0, 9 * SECOND)
    ring.write(1.0, piece)
    np.testing.assert_array_equal(_int16(ring, 10.0, 2), piece[-2 * SECOND :])


def test_nothing_is_heard_before_after_and_in_a_long_gap() -> None:
    ring = SoundRing(2)
    assert not _int16(ring, 1.0, 2).any()
    ring.write(0.0, np.full(SECOND, 7, np.int16))
    assert _int16(ring, 1.5, 2).tolist() == [0] * (SECOND // 2) + [7] * SECOND + [0] * (SECOND // 2)
    ring.write(1e9, np.full(SECOND, 8, np.int16))
    assert _int16(ring, 1e9 + 1, 2).tolist() == [0] * SECOND + [8] * SECOND
    assert not _int16(ring, 1.0, 1).any()


def _frame(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


@pytest.mark.parametrize(
    ("times_s", "now_s", "numbers"),
    [
        ([], 1.0, []),
        ([0.0], 1.0, [0]),
        ([0.0], 1.6, []),
        ([1.0, 2.0, 3.0, 4.0], 5.0, [1, 2, 3]),
        ([1.0, 2.0, 3.0], 5.0, []),
        ([1.0, 3.0, 4.0], 5.0, [1, 2]),
        ([3.0, 3.4, 3.8, 4.1], 5.0, [0, 3]),
        ([2.0, 2.9, 3.45, 4.45], 4.9, [0, 1, 2]),
    ],
)
def test_past_frames_are_the_nearest_to_each_second_up_to_a_hole(
    times_s: list[float], now_s: float, numbers: list[int]
) -> None:
    past = PastFrames(num_frames=4, image_size_px=2)
    for number, time_s in enumerate(times_s):
        past.add(time_s, _frame(number))
    found = past.before(now_s)
    assert found.dtype == np.uint8
    assert found.shape == (len(numbers), 2, 2, 3)
    assert found[:, 0, 0, 0].tolist() == numbers


def test_past_frames_do_not_grow_and_are_copies() -> None:
    past, frame = PastFrames(num_frames=4, image_size_px=2), _frame(5)
    for k in range(3000):
        past.add(k / 30, frame)
    frame[:] = 0
    assert past.before(100.0)[:, 0, 0, 0].tolist() == [5, 5, 5]
    assert len(past._kept) <= 4 * 5 + 1


def test_a_pace_allows_bursts_of_two_seconds_and_no_more() -> None:
    pace = Pace(1000.0)
    assert pace.allows(1900, now_s=100.0)
    assert not pace.allows(100, now_s=100.0)
    pace = Pace(1000.0)
    assert all(pace.allows(900, now_s=100.0 + second) for second in range(100))
    pace = Pace(1000.0)
    assert not all(pace.allows(1100, now_s=100.0 + second) for second in range(100))
    pace = Pace(1000.0)
    assert not all(pace.allows(0, now_s=100.0) for _ in range(100))
