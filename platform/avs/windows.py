"""Cutting a video of any length into windows of T seconds: one function for every stage.

Frames are one a second; frame k shows second k, and the sound of a window is the fixed sample
range of its T seconds. A last window that would be short is moved back to end with the video, so
the network always sees T real seconds; only a video shorter than T is padded (last frame
repeated, silence). A pure function of N and T: the masks of a video do not depend on how its
windows were spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Window", "cut_sound", "plan_windows"]


@dataclass(frozen=True, slots=True)
class Window:
    """``indices`` [T] frames seen (padding repeats the last), of which ``new`` are kept.

    ``new`` holds positions inside the window whose masks are not yet given by an earlier window;
    ``num_valid`` counts the frames that are not padding.
    """

    start: int
    indices: tuple[int, ...]
    new: tuple[int, ...]
    num_valid: int


def plan_windows(num_frames: int, *, window_frames: int) -> list[Window]:
    """Windows of ``window_frames`` that cover frames 0 .. num_frames - 1, each frame kept once."""
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1")
    windows = []
    for first in range(0, num_frames, window_frames):
        start = max(0, min(first, num_frames - window_frames))
        indices = tuple(min(start + t, num_frames - 1) for t in range(window_frames))
        last = min(first + window_frames, num_frames)
        new = tuple(range(first - start, last - start))
        windows.append(Window(start, indices, new, min(window_frames, num_frames - start)))
    return windows


def cut_sound(
    samples: np.ndarray, window: Window, *, sample_rate_hz: int, window_frames: int
) -> np.ndarray:
    """The sound of a window: float32 [T * rate], zero where the recording has ended."""
    size = window_frames * sample_rate_hz
    first = window.start * sample_rate_hz
    part = samples[first : first + size]
    return np.pad(part, (0, size - len(part))).astype(np.float32, copy=False)
