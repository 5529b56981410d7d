"""What a live session remembers, all of it bounded: sound, frames of the past, how much it sent.

Times are seconds of the client's clock. Memory is given by the model's window and not by what the
client sends: nothing here grows with the length of a session.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from avs.media.resampling import SAMPLE_RATE_HZ
from avs.media.sound_stream import from_int16

__all__ = ["Pace", "PastFrames", "SoundRing"]

# A picture waits for the one before it while its sound moves on.
_WAIT_S = 2
_NEAR_S = 0.5
# Closer frames would cost memory (150 kB each at 224 px) for windows of one frame a second.
_MIN_GAP_S = 0.2
_AVERAGED_OVER_S = 2.0
# A message costs time even if it holds nothing.
_MESSAGE_BYTES = 64


class SoundRing:
    """The newest sound, placed by its times: gaps are zeros, what overlaps is overwritten."""

    def __init__(self, num_seconds: int) -> None:
        """Keeps ``num_seconds`` before any picture that waited no longer than _WAIT_S."""
        self._samples = np.zeros((num_seconds + _WAIT_S) * SAMPLE_RATE_HZ, np.int16)
        self._end: int | None = None  # samples since time 0

    def write(self, time_s: float, samples: NDArray[np.int16]) -> None:
        """Place 16 kHz ``samples`` of any length whose first one belongs to ``time_s``."""
        start = round(time_s * SAMPLE_RATE_HZ)
        end = start + len(samples)
        before = start if self._end is None else self._end
        self._end = max(before, end)
        oldest = self._end - len(self._samples)
        gap = np.arange(max(before, oldest), start)
        self._samples[gap % len(self._samples)] = 0
        kept = np.arange(max(start, oldest), end)
        self._samples[kept % len(self._samples)] = samples[len(samples) - len(kept) :]

    def read(self, end_s: float, num_seconds: int) -> NDArray[np.float32]:
        """Float32 [num_seconds * 16000] in -1..1 that ends at ``end_s``; zeros where none came."""
        end = round(end_s * SAMPLE_RATE_HZ)
        places = np.arange(end - num_seconds * SAMPLE_RATE_HZ, end)
        found = self._samples[places % len(self._samples)]
        newest = places[0] if self._end is None else self._end
        is_kept = (places < newest) & (places >= newest - len(self._samples))
        return from_int16(np.where(is_kept, found, np.int16(0)))


class PastFrames:
    """Frames of answered pictures, and which of them belong before a new one."""

    def __init__(self, *, num_frames: int, image_size_px: int) -> None:
        """num_frames, image_size_px: T and S of the model's window."""
        self._num_frames, self._size_px = num_frames, image_size_px
        self._kept: deque[tuple[float, NDArray[np.uint8]]] = deque()

    def add(self, time_s: float, frame: NDArray[np.uint8]) -> None:
        """Keep uint8 [S, S, 3]; its time is not before the last one's."""
        if self._kept and time_s - self._kept[-1][0] < _MIN_GAP_S:
            return
        # Copied: a view would keep the whole answer in Ray's object store.
        self._kept.append((time_s, np.array(frame)))
        while self._kept[0][0] < time_s - self._num_frames:
            self._kept.popleft()

    def before(self, time_s: float) -> NDArray[np.uint8]:
        """One frame a second before ``time_s``, uint8 [n, S, S, 3], n < T, oldest first.

        The nearest to each whole second before, within half a second, up to the first that is
        missing: a window has no holes.
        """
        found: list[NDArray[np.uint8]] = []
        for seconds in range(1, self._num_frames):
            wanted_s = time_s - seconds
            nearest = min(self._kept, key=lambda kept: abs(kept[0] - wanted_s), default=None)
            if nearest is None or abs(nearest[0] - wanted_s) > _NEAR_S:
                break
            found.append(nearest[1])
        if not found:
            return np.zeros((0, self._size_px, self._size_px, 3), np.uint8)
        return np.stack(found[::-1])


class Pace:
    """Whether a client keeps to a number of bytes a second, averaged over two seconds."""

    def __init__(self, max_bytes_per_s: float) -> None:
        self._rate = max_bytes_per_s
        self._owed_bytes = 0.0
        self._last_s = 0.0

    def allows(self, num_bytes: int, *, now_s: float) -> bool:
        """Count a message of ``num_bytes`` at ``now_s`` of a clock that never goes back."""
        paid = (now_s - self._last_s) * self._rate
        self._owed_bytes = max(0.0, self._owed_bytes - paid) + num_bytes + _MESSAGE_BYTES
        self._last_s = now_s
        return self._owed_bytes <= _AVERAGED_OVER_S * self._rate
