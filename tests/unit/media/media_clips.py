"""Small videos whose content tells what was read: frame numbers, clicks and flashes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

_QUIET: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "16", "bf": "2", "g": "16"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none", "crf": "16"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12", "crf": "20"},
}


def numbered_frames(num_frames: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Frames whose grey level is 4 n, so that a decoded frame tells its number."""
    levels = (np.arange(num_frames, dtype=np.uint8) * 4)[:, None, None, None]
    return np.broadcast_to(levels, (num_frames, height, width, 3)).copy()


def frame_number(frame: NDArray[np.uint8]) -> int:
    """Number of a frame of :func:`numbered_frames` after decoding."""
    return round(float(frame.mean()) / 4)


def frame_numbers(frames: NDArray[np.uint8]) -> list[int]:
    """Numbers of all frames [N, H, W, 3]."""
    return [frame_number(frame) for frame in frames]


def add_video(
    container: OutputContainer,
    *,
    fps: Fraction | int,
    size_px: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    time_base: Fraction | None = None,
) -> VideoStream:
    """A video stream of the container, ready for :func:`encode_video`."""
    stream = container.add_stream(codec, rate=fps)
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = size_px
    stream.pix_fmt = pix_fmt
    stream.options = dict(_QUIET.get(codec, {}))
    if codec == "mpeg4":
        stream.bit_rate = 4_000_000
    if time_base is not None:
        stream.codec_context.time_base = time_base
    return stream


def encode_video(
    stream: VideoStream,
    frames: NDArray[np.uint8],
    *,
    start: int = 0,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
) -> Iterator[Any]:
    """Packets of RGB frames, numbered from ``start`` on or shown at ``pts``."""
    for index, pixels in enumerate(frames):
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts = start + index if pts is None else pts[index]
        if time_base is not None:
            frame.time_base = time_base
        yield from stream.encode(frame)
    yield from stream.encode(None)
    if stream.name == "libsvtav1":  # as root it makes its caller a real-time thread, for good
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def add_sound(container: OutputContainer, codec: str, rate_hz: int) -> AudioStream:
    """A mono sound stream of the container."""
    stream = container.add_stream(codec, rate=rate_hz, layout="mono")
    assert isinstance(stream, AudioStream)
    return stream


def encode_sound(stream: AudioStream, *pieces: tuple[float, NDArray[np.float32]]) -> Iterator[Any]:
    """Packets of pieces of mono sound, each (start in seconds, samples [n])."""
    form, rate_hz = stream.format.name, stream.rate
    step = stream.codec_context.frame_size or 4096
    for start_s, samples in pieces:
        for first in range(0, len(samples), step):
            piece = samples[None, first : first + step]
            if form.startswith("s"):
                bits = int(form.strip("sp"))
                piece = (piece * (2.0 ** (bits - 1) - 1)).astype(f"int{bits}")
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(piece), format=form, layout="mono")
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            frame.pts = first + round(start_s * rate_hz)
            yield from stream.encode(frame)
    yield from stream.encode(None)


def write_clip(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    container_format: str = "mp4",
    fps: Fraction | int = 8,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    start: int = 0,
    matrix: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    encoder_options: dict[str, str] | None = None,
) -> Path:
    """A video without sound; ``matrix`` says how it is to be shown."""
    with av.open(str(path), mode="w", format=container_format, options=options or {}) as container:
        stream = add_video(
            container, fps=fps, size_px=frames.shape[1:3], codec=codec, pix_fmt=pix_fmt
        )
        if encoder_options is not None:
            stream.options = encoder_options
        if matrix is not None:
            stream.set_display_matrix(list(matrix))
        for packet in encode_video(stream, frames, start=start):
            container.mux(packet)
    return path


def mux_in_order(container: OutputContainer, *streams: Iterator[Any]) -> None:
    """Mux the packets of several encoders by time, as containers without an index want it."""
    packets = [packet for stream in streams for packet in stream if packet.dts is not None]
    for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
        container.mux(packet)
