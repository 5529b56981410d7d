"""Sampled frames of a video by random access with decord.

decord jumps to the sampled frames, which is why it reads first where it reads rightly (see
:mod:`avs.media.decord_fit`). It cannot be told which demuxer to take and opens
whatever a playlist names, so the file is checked right before.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avs.media.containers import check_container
from avs.media.frames import resize_frames
from avs.media.sampling import (
    SampledFrames,
    SamplePlan,
    Sampling,
    check_length,
    end_of_video,
)

__all__ = ["DecordError", "import_decord", "read_with_decord"]


class DecordError(Exception):
    """decord cannot read this file; PyAV may."""


def read_with_decord(path: str | os.PathLike[str], plan: SamplePlan) -> SampledFrames:
    """Sampled frames by random access; raises DecordError where decord cannot, MediaError."""
    reader, times_s, end_s = _open_decord(path, plan.fps)
    check_length(path, end_s, plan.max_duration_s)
    count = plan.num_samples(len(times_s), end_s)
    if plan.sampling is Sampling.OFFICIAL:
        wanted = np.minimum([plan.index(k) for k in range(count)], len(times_s) - 1)
    else:
        at_s = np.array([plan.at_s(k) for k in range(count)]) + plan.tolerance_s
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
        frame_time_s=plan.times(wanted, float(times_s[-1]), end_s),
        display_px=(frame.shape[0], frame.shape[1]),
        end_s=end_s,
        num_decoded=len(times_s),
    )


def import_decord(*, with_torch: bool = True) -> Any:
    """The module decord; torch is imported ahead, or a later import of it may crash.

    A process that never imports torch saves two seconds by ``with_torch=False`` in its first call.
    Raises ImportError.
    """
    if with_torch and "decord" not in sys.modules:
        importlib.import_module("torch")
    return importlib.import_module("decord")


def _open_decord(
    path: str | os.PathLike[str], fps: float
) -> tuple[Any, NDArray[np.float64], float]:
    """Reader, frame times from the first frame, end of the last frame."""
    try:
        decord = import_decord()
    except ImportError as error:  # not made for every machine type
        raise DecordError("decord is not installed") from error
    check_container(path)
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(Path(path).resolve()), num_threads=1)
        spans_s = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)
    except (decord.DECORDError, AssertionError, RuntimeError, ValueError) as error:
        raise DecordError(str(error)) from error
    times_s = spans_s[:, 0] - spans_s[0, 0]
    if not np.isfinite(spans_s).all() or (np.diff(times_s) < 0).any():
        raise DecordError("frame times are out of order")
    last_s = float(spans_s[-1, 1] - spans_s[-1, 0])
    return reader, times_s, end_of_video(float(times_s[-1]), last_s, fps)


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
