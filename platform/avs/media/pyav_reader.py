"""Sampled frames of a video by decoding it in order with PyAV.

A frame is kept until the next one shows whether it was the one wanted, which also works without an
index or a known length. On all 8-bit test videos the pixels are those of decord, so which of the
two readers took a clip does not matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from av.buffer import Buffer
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.containers import DECODER_ERRORS, decoder_reason, open_container
from avs.media.frames import resize_frames
from avs.media.probing import VideoTrack, display_size, find_video_stream
from avs.media.sampling import SampledFrames, SamplePlan, check_length, end_of_video

__all__ = ["read_with_pyav", "upright"]

# Before a start this early nothing is skipped. Streams without an index (mpegts) may land behind
# the wanted frame: then again from further back, and in the end from the first frame.
_SEEK_AFTER_S = 3.0
_SEEK_BACK_S = (0.0, 10.0, 60.0)


def read_with_pyav(
    path: str | os.PathLike[str], plan: SamplePlan, track: VideoTrack
) -> SampledFrames:
    """Sampled frames by decoding in order, from ``start_s`` on where the file can be searched.

    Raises MediaError when the picture is damaged.
    """
    # avi stores no display times, so frames have to be counted from the first one
    may_seek = plan.start_s > _SEEK_AFTER_S and track.container != "avi"
    for back_s in _SEEK_BACK_S if may_seek else ():
        found = _read_in_order(path, plan, track, back_s=back_s)
        if found is not None:
            return found
    found = _read_in_order(path, plan, track, back_s=None)
    assert found is not None
    return found


def _read_in_order(
    path: str | os.PathLike[str], plan: SamplePlan, track: VideoTrack, *, back_s: float | None
) -> SampledFrames | None:
    """Frames from the first one, or from ``back_s`` before the first sample; None if not found."""
    container, _ = open_container(path)
    collector = _Collector(str(path), plan, track)
    with container:
        stream = find_video_stream(str(path), container)
        stream.codec_context.thread_count = 1
        try:
            frames: Iterator[VideoFrame] | None = container.decode(stream)
            if back_s is not None:
                frames = _frames_from(container, stream, plan.at_s(0), back_s, collector)
            if frames is None:
                return None
            for frame in frames:
                collector.add(frame)
                if collector.is_complete:
                    break
            else:
                collector.finish()
        except DECODER_ERRORS as error:
            raise MediaError(
                f"{path}: the picture is damaged after {collector.time_s:.2f} s "
                f"({decoder_reason(error)})"
            ) from error
    return collector.result(is_whole=back_s is None)


def _frames_from(
    container: InputContainer,
    stream: VideoStream,
    at_s: float,
    back_s: float,
    collector: _Collector,
) -> Iterator[VideoFrame] | None:
    """Frames from a key frame at or before ``at_s`` after the first frame; None if that fails.

    What is shown before the first key frame is left out: it may lean on frames that were skipped.
    """
    first = next(container.decode(stream), None)
    if first is None or first.time is None or not stream.time_base:
        return None
    collector.set_first(first)
    at_s += first.time
    try:
        container.seek(round((at_s - back_s) / stream.time_base), stream=stream)
    except DECODER_ERRORS:
        return None
    frames = container.decode(stream)
    for frame in frames:
        if frame.time is None or frame.time > at_s:
            return None
        if frame.key_frame:
            return _chain(frame, frames)
    return None


def _chain(first: VideoFrame, rest: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    yield first
    yield from rest


class _Collector:
    """Takes frames in order and keeps the sampled ones, resized.

    Raises MediaError before it keeps one of a time past the limit: times may jump by years.
    """

    def __init__(self, path: str, plan: SamplePlan, track: VideoTrack) -> None:
        self.time_s = 0.0
        self._path = path
        self._plan = plan
        self._track = track
        self._first_s: float | None = None
        self._display_px: tuple[int, int] | None = None
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

    def set_first(self, frame: VideoFrame) -> None:
        """The first frame of the video, whose time is zero and whose size is that of all."""
        self._first_s = frame.time
        self._display_px = display_size(frame, self._track.pixel_aspect)

    def add(self, frame: VideoFrame) -> None:
        """The next frame in display order."""
        now_s = self._time_of(frame)
        check_length(self._path, now_s, self._plan.max_duration_s)
        while (
            self._previous is not None
            and not self.is_complete
            and self._plan.is_past(len(self._kept), self._num_seen, now_s)
        ):
            self._keep(self._previous)
        if self._display_px is None:
            self._display_px = display_size(frame, self._track.pixel_aspect)
        self._previous, self._resized = frame, None
        self.time_s = now_s
        self._num_seen += 1

    def finish(self) -> None:
        """End of the video: its last frame stands for what is left."""
        if self._previous is None:
            return
        shown_s = float((self._previous.duration or 0) * (self._previous.time_base or 0))
        self._end_s = end_of_video(self.time_s, shown_s, self._track.fps)
        check_length(self._path, self._end_s, self._plan.max_duration_s)
        while len(self._kept) < self._plan.num_samples(self._num_seen, self._end_s):
            self._keep(self._previous)

    def result(self, *, is_whole: bool) -> SampledFrames:
        """What was collected; raises MediaError when that is nothing."""
        if not self._kept or self._display_px is None:
            raise MediaError(f"{self._path}: the video stream holds no frame that can be decoded")
        return SampledFrames(
            frames=np.stack(self._kept),
            frame_time_s=self._plan.times(np.array(self._indices), self.time_s, self._end_s),
            display_px=self._display_px,
            end_s=self._end_s,
            num_decoded=self._num_seen if is_whole and self._end_s is not None else None,
        )

    def _time_of(self, frame: VideoFrame) -> float:
        if frame.pts is None or self._track.container == "avi":
            return self._num_seen / self._track.fps
        if self._first_s is None:
            self._first_s = frame.time
        return max(self.time_s, frame.time - self._first_s)

    def _keep(self, frame: VideoFrame) -> None:
        if self._resized is None:
            size_px = self._plan.size_px or self._display_px
            assert size_px is not None
            self._resized = resize_frames(upright(frame)[None], size_px)[0]
        self._kept.append(self._resized)
        self._indices.append(self._num_seen - 1)


def upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """RGB pixels of a decoded frame as shown, turned and mirrored, uint8 [H, W, 3]."""
    # By default every frame gets threads of its own, which live until garbage is collected.
    pixels = np.asarray(frame.to_ndarray(format="rgb24", threads=1), np.uint8)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, Buffer):
        return pixels
    # (x, y) is shown at (a x + c y, b x + d y), in 16.16 fixed point, y downwards
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
