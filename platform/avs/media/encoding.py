"""Writing H.264 / AAC mp4 files of frames and sound that fit in memory.

For made-up data and tests. ``ultrafast`` and one thread: a clip is written in tens of milliseconds
and its bytes do not depend on the number of cores.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

__all__ = ["write_mp4"]


def write_mp4(
    path: str | os.PathLike[str],
    frames: NDArray[np.uint8],
    *,
    fps: float,
    samples: NDArray[np.float32] | None,
    sample_rate_hz: int = 16000,
) -> None:
    """Write uint8 RGB [N, H, W, 3] (even sides) at ``fps`` with mono ``samples`` [n] or no sound.

    The file appears under its name when it is complete.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with av.open(f"file:{partial.resolve()}", mode="w", format="mp4") as container:
            video = _add_video(container, frames, fps)
            sound = None
            if samples is not None:
                sound = container.add_stream("aac", rate=sample_rate_hz, layout="mono")
                assert isinstance(sound, AudioStream)
            _encode_frames(container, video, frames)
            if sound is not None and samples is not None:
                _encode_samples(container, sound, samples, sample_rate_hz)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _add_video(container: OutputContainer, frames: NDArray[np.uint8], fps: float) -> VideoStream:
    rate = Fraction(fps).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate)
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    stream.options = {"preset": "ultrafast", "crf": "18", "threads": "1"}
    return stream


def _encode_frames(
    container: OutputContainer, stream: VideoStream, frames: NDArray[np.uint8]
) -> None:
    for pixels in frames:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _encode_samples(
    container: OutputContainer,
    stream: AudioStream,
    samples: NDArray[np.float32],
    sample_rate_hz: int,
) -> None:
    step = 1024
    for start in range(0, len(samples), step):
        piece = np.ascontiguousarray(samples[None, start : start + step], np.float32)
        frame = AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate = sample_rate_hz
        frame.pts = start
        frame.time_base = Fraction(1, sample_rate_hz)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
