"""Sampled frames of a video by two readers with one result: decord, and PyAV.

decord jumps to the sampled frames; PyAV decodes in order and keeps a frame until the next one
shows whether it was the one wanted, which also works without an index or a known length. On all
8-bit test videos both give identical pixels, so which of them read a clip does not matter.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401  (before decord, or importing that may crash)
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.containers import DECODER_ERRORS, decoder_reason, open_container
from avs.media.frames import resize_frames
from avs.media.probing import VideoTrack, display_size, find_video_stream

__all__ = [
    "SAMPLE_OFFSET_S",
    "DecordError",
    "SamplePlan",
    "SampledFrames",
    "Sampling",
    "read_with_decord",
    "read_with_pyav",
    "upright",
]

SAMPLE_OFFSET_S = 15 / 16
# decord's times are float32: a quarter of a millisecond after an hour.
_EPSILON_S = 5e-4


class DecordError(Exception):
    """decord cannot read this file; PyAV may."""


class Sampling(enum.Enum):
    """Which frame stands for second k: AVSBench's index rule, or the frame shown at k + 15/16 s."""

    OFFICIAL = "official"
    TIME = "time"


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplePlan:
    """Samples to take: at most (OFFICIAL: exactly) ``num_frames``, None = to the end."""

    sampling: Sampling
    num_frames: int | None
    size_px: tuple[int, int] | None
    max_duration_s: float
    fps: float

    def index(self, k: int) -> int:
        """Source frame of second k by AVSBench's rule."""
        fps = max(1, round(self.fps))
        return int(k * fps + SAMPLE_OFFSET_S * fps)

    def is_past(self, k: int, index: int, time_s: float) -> bool:
        """Whether the frame comes after the one that stands for second k."""
        if self.sampling is Sampling.OFFICIAL:
            return index > self.index(k)
        return time_s > k + SAMPLE_OFFSET_S + _EPSILON_S

    def num_samples(self, num_decoded: int, end_s: float) -> int:
        """Number of samples of a whole video of ``num_decoded`` frames that ends at ``end_s``."""
        if self.sampling is Sampling.OFFICIAL:
            if self.num_frames is not None:
                return self.num_frames
            return max(1, (num_decoded - 1 - self.index(0)) // max(1, round(self.fps)) + 1)
        whole = max(1, int(end_s + 1 - SAMPLE_OFFSET_S + _EPSILON_S))
        return whole if self.num_frames is None else min(whole, self.num_frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledFrames:
    """uint8 [N, H, W, 3], times [N] from the first frame, native size, end of the video if seen."""

    frames: NDArray[np.uint8]
    frame_time_s: NDArray[np.float64]
    display_px: tuple[int, int]
    end_s: float | None
    num_decoded: int | None


def read_with_decord(path: str | os.PathLike[str], plan: SamplePlan) -> SampledFrames:
    """Sampled frames by random access; raises DecordError where decord cannot, MediaError."""
    reader, times_s, end_s = _open_decord(path)
    check_length(path, end_s, plan.max_duration_s)
    count = plan.num_samples(len(times_s), end_s)
    if plan.sampling is Sampling.OFFICIAL:
        wanted = np.minimum([plan.index(k) for k in range(count)], len(times_s) - 1)
    else:
        at_s = np.arange(count) + SAMPLE_OFFSET_S + _EPSILON_S
        wanted = np.maximum(np.searchsorted(times_s, at_s, side="right") - 1, 0)
    out: NDArray[np.uint8] | None = None
    frame = np.zeros((0, 0, 3), np.uint8)
    last = -1
    for k, index in enumerate(wanted.tolist()):
        if index != last:
            frame, last = _decord_frame(reader, index), index
        size_px = plan.size_px or (frame.shape[0], frame.shape[1])
        if out is None:
            out = np.empty((count, *size_px, 3), np.uint8)
        out[k] = resize_frames(frame[None], size_px)[0]
    assert out is not None
    return SampledFrames(
        frames=out,
        frame_time_s=_sample_times(plan, wanted, float(times_s[-1]), end_s),
        display_px=(frame.shape[0], frame.shape[1]),
        end_s=end_s,
        num_decoded=len(times_s),
    )


def _open_decord(path: str | os.PathLike[str]) -> tuple[Any, NDArray[np.float64], float]:
    """Reader, frame times from the first frame, end of the last frame."""
    try:
        import decord  # not at the top: absent on arm64, and torch has to be imported before it
    except ImportError as error:
        raise DecordError("decord is not installed") from error
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(Path(path).resolve()), num_threads=1)
        spans_s = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)
        fps = float(reader.get_avg_fps())
    except (decord.DECORDError, AssertionError, RuntimeError, ValueError) as error:
        raise DecordError(str(error)) from error
    times_s = spans_s[:, 0] - spans_s[0, 0]
    if not np.isfinite(spans_s).all() or (np.diff(times_s) < 0).any():
        raise DecordError("frame times are out of order")
    last_s = spans_s[-1, 1] - spans_s[-1, 0]
    end_s = times_s[-1] + (last_s if last_s > 0 else 1 / max(fps, 1e-3))
    return reader, times_s, float(end_s)


def _decord_frame(reader: Any, index: int) -> NDArray[np.uint8]:
    import decord

    try:
        reader.seek_accurate(index)
        frame: NDArray[np.uint8] = reader.next().asnumpy()
    except (decord.DECORDError, StopIteration, RuntimeError) as error:
        raise DecordError(str(error)) from error
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise DecordError(f"a frame has shape {frame.shape}")
    return frame


def check_length(path: str | os.PathLike[str], length_s: float, max_duration_s: float) -> None:
    """Raise MediaError when a video is longer than allowed (with 0.1 s of grace)."""
    if length_s > max_duration_s + 0.1:
        raise MediaError(
            f"{path}: lasts {length_s:.1f} s, more than the limit of {max_duration_s:g} s"
        )


def read_with_pyav(
    path: str | os.PathLike[str], plan: SamplePlan, track: VideoTrack
) -> SampledFrames:
    """Sampled frames by decoding in order; raises MediaError when the picture is damaged."""
    container, _ = open_container(path)
    collector = _Collector(plan, track)
    with container:
        stream = find_video_stream(str(path), container)
        stream.codec_context.thread_count = 1
        try:
            for frame in container.decode(stream):
                collector.add(frame)
                check_length(path, collector.time_s, plan.max_duration_s)
                if collector.is_complete:
                    break
            else:
                collector.finish()
        except DECODER_ERRORS as error:
            raise MediaError(
                f"{path}: the picture is damaged after {collector.time_s:.2f} s "
                f"({decoder_reason(error)})"
            ) from error
    return collector.result(str(path))


class _Collector:
    """Takes frames in order and keeps the sampled ones, resized."""

    def __init__(self, plan: SamplePlan, track: VideoTrack) -> None:
        self.time_s = 0.0
        self._plan = plan
        self._track = track
        self._first_s: float | None = None
        self._num_seen = 0
        self._previous: VideoFrame | None = None
        self._resized: NDArray[np.uint8] | None = None
        self._kept: list[NDArray[np.uint8]] = []
        self._indices: list[int] = []
        self._end_s: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether no further frame is needed."""
        return self._plan.num_frames is not None and len(self._kept) >= self._plan.num_frames

    def add(self, frame: VideoFrame) -> None:
        """The next frame in display order."""
        now_s = self._time_of(frame)
        while (
            self._previous is not None
            and not self.is_complete
            and self._plan.is_past(len(self._kept), self._num_seen, now_s)
        ):
            self._keep(self._previous)
        self._previous, self._resized = frame, None
        self.time_s = now_s
        self._num_seen += 1

    def finish(self) -> None:
        """End of the video: its last frame stands for what is left."""
        if self._previous is None:
            return
        length_s = float((self._previous.duration or 0) * (self._previous.time_base or 0))
        self._end_s = self.time_s + (length_s or 1 / self._track.fps)
        while len(self._kept) < self._plan.num_samples(self._num_seen, self._end_s):
            self._keep(self._previous)

    def result(self, path: str) -> SampledFrames:
        """What was collected; raises MediaError when that is nothing."""
        if not self._kept or self._previous is None:
            raise MediaError(f"{path}: the video stream holds no frame that can be decoded")
        return SampledFrames(
            frames=np.stack(self._kept),
            frame_time_s=_sample_times(
                self._plan, np.array(self._indices), self.time_s, self._end_s
            ),
            display_px=display_size(self._previous, self._track.pixel_aspect),
            end_s=self._end_s,
            num_decoded=None if self._end_s is None else self._num_seen,
        )

    def _time_of(self, frame: VideoFrame) -> float:
        if frame.pts is None or self._track.container == "avi":
            # avi stores no display times, only a constant rate
            return self._num_seen / self._track.fps
        if self._first_s is None:
            self._first_s = frame.time
        return max(self.time_s, frame.time - self._first_s)

    def _keep(self, frame: VideoFrame) -> None:
        if self._resized is None:
            display_px = display_size(frame, self._track.pixel_aspect)
            self._resized = resize_frames(upright(frame)[None], self._plan.size_px or display_px)[0]
        self._kept.append(self._resized)
        self._indices.append(self._num_seen - 1)


def upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """RGB pixels of a decoded frame after its rotation, uint8 [H, W, 3]."""
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return np.rot90(pixels, round(frame.rotation / 90))


def _sample_times(
    plan: SamplePlan, indices: NDArray[np.int64], last_s: float, end_s: float | None
) -> NDArray[np.float64]:
    """Times [N] from the first frame; a clip that ends before 15/16 s has its last frame's."""
    if plan.sampling is Sampling.OFFICIAL:
        return np.asarray(indices / plan.fps, np.float64)
    at_s = np.arange(len(indices), dtype=np.float64) + SAMPLE_OFFSET_S
    if end_s is not None and end_s + _EPSILON_S < at_s[0]:
        at_s[0] = last_s
    return at_s
