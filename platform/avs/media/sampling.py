"""Which frames of a video are taken: AVSBench's index rule, or the frame shown at a time.

The rule is apart from the readers so that both follow the same one. ``start_s`` is for windows of
long videos, which are read without what lies before them. One sample a second is what networks are
trained on; ``samples_per_s`` is for those who want more masks.
"""

from __future__ import annotations

import enum
import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avs.errors import MediaError

__all__ = [
    "MAX_SAMPLES_PER_S",
    "SAMPLE_OFFSET_S",
    "SamplePlan",
    "SampledFrames",
    "Sampling",
    "check_length",
    "end_of_video",
    "native_rate",
]

SAMPLE_OFFSET_S = 15 / 16
MAX_SAMPLES_PER_S = 120
# decord's times are float32: a quarter of a millisecond after an hour.
_EPSILON_S = 5e-4


class Sampling(enum.Enum):
    """Which frame stands for second k: AVSBench's index rule, or the frame shown at k + 15/16 s."""

    OFFICIAL = "official"
    TIME = "time"


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplePlan:
    """Samples to take: at most (OFFICIAL: exactly) ``num_frames``, None = to the end.

    With TIME, second 0 is at ``start_s`` of the video. ``times_s`` may give another time within
    each second than 15/16 of it; ``samples_per_s`` cuts every second into parts, each of which is
    then sampled at 15/16 of it.
    """

    sampling: Sampling
    num_frames: int | None
    size_px: tuple[int, int] | None
    max_duration_s: float
    fps: float
    start_s: float = 0.0
    times_s: tuple[float, ...] | None = None
    samples_per_s: int = 1

    def __post_init__(self) -> None:
        rate = self.samples_per_s
        if not 1 <= rate <= MAX_SAMPLES_PER_S:
            raise ValueError(f"samples_per_s={rate} must be between 1 and {MAX_SAMPLES_PER_S}")
        if rate > 1 and self.sampling is Sampling.OFFICIAL:
            raise ValueError(f"samples_per_s={rate} must be 1 by the official rule")
        if rate > 1 and self.times_s is not None:
            raise ValueError(f"times_s gives one time a second, but samples_per_s={rate}")
        for k, time_s in enumerate(self.times_s or ()):
            if not 0 <= time_s - self.start_s - k < 1:
                raise ValueError(f"times_s[{k}]={time_s} is not in second {self.start_s + k:g}")

    @property
    def tolerance_s(self) -> float:
        """By how much a frame may begin after a sample's time and count as shown then."""
        return _EPSILON_S / self.samples_per_s  # the next frame may begin 1/16 of a sample later

    def index(self, k: int) -> int:
        """Source frame of second k by AVSBench's rule."""
        fps = max(1, round(self.fps))
        return int(k * fps + SAMPLE_OFFSET_S * fps)

    def at_s(self, k: int) -> float:
        """Time in the video of the frame that is sample k, by the time rule."""
        if self.times_s is not None and k < len(self.times_s):
            return self.times_s[k]
        # One division, last: from a later whole second on the same sample has the same time.
        rate = self.samples_per_s
        return (self.start_s * rate + k + SAMPLE_OFFSET_S) / rate

    def is_past(self, k: int, index: int, time_s: float) -> bool:
        """Whether the frame comes after the one that is sample k."""
        if self.sampling is Sampling.OFFICIAL:
            return index > self.index(k)
        return time_s > self.at_s(k) + self.tolerance_s

    def num_samples(self, num_decoded: int, end_s: float) -> int:
        """Number of samples of a whole video of ``num_decoded`` frames that ends at ``end_s``."""
        if self.sampling is Sampling.OFFICIAL:
            if self.num_frames is not None:
                return self.num_frames
            return max(1, (num_decoded - 1 - self.index(0)) // max(1, round(self.fps)) + 1)
        length = (end_s - self.start_s) * self.samples_per_s
        whole = max(1, int(length + 1 - SAMPLE_OFFSET_S + _EPSILON_S))
        return whole if self.num_frames is None else min(whole, self.num_frames)

    def times(
        self, indices: NDArray[np.int64], last_s: float, end_s: float | None
    ) -> NDArray[np.float64]:
        """Times [N] of the samples from the first frame; those of a clip that ends before the
        first sample's time are its last frame's, at ``last_s``."""
        if self.sampling is Sampling.OFFICIAL:
            return np.asarray(indices / self.fps, np.float64)
        at_s = np.array([self.at_s(k) for k in range(len(indices))], np.float64)
        if end_s is not None and end_s + self.tolerance_s < at_s[0]:
            at_s[0] = last_s
        return at_s


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledFrames:
    """uint8 [N, H, W, 3], times [N] from the first frame, native size, end of the video if seen."""

    frames: NDArray[np.uint8]
    frame_time_s: NDArray[np.float64]
    display_px: tuple[int, int]
    end_s: float | None
    num_decoded: int | None


def native_rate(fps: float) -> int:
    """Samples a second that take every frame of a video of ``fps``, at most MAX_SAMPLES_PER_S."""
    return max(1, min(MAX_SAMPLES_PER_S, math.ceil(round(fps, 3))))


def end_of_video(last_s: float, shown_s: float, fps: float) -> float:
    """End of a video whose last frame begins at ``last_s`` and says that it lasts ``shown_s``.

    Writers that do not know how long the last frame lasts store zero or one tick: less than half
    of the average is replaced by the average.
    """
    average_s = 1 / max(fps, 1e-3)
    return last_s + (shown_s if shown_s > average_s / 2 else average_s)


def check_length(path: str | os.PathLike[str], length_s: float, max_duration_s: float) -> None:
    """Raise MediaError when a video is longer than allowed (with 0.1 s of grace)."""
    if length_s > max_duration_s + 0.1:
        raise MediaError(
            f"{path}: lasts {length_s:.1f} s, more than the limit of {max_duration_s:g} s"
        )
