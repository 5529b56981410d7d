"""What a video file says about itself, without decoding more than its first frame.

Read with PyAV because decord tells neither codec nor rotation nor whether there is sound. Among
several video or sound streams the choice is FFmpeg's own: the one marked as default, then the one
of the highest rate; never a cover picture. The sound belongs to the programme of the picture. A
pixel aspect ratio within 1 % of square is an encoder's rounding and is ignored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avs.errors import MediaError
from avs.media.containers import DECODER_ERRORS, decoder_reason, open_container
from avs.media.decord_fit import suits_decord
from avs.media.frames import MAX_FRAME_PIXELS

__all__ = [
    "VideoInfo",
    "VideoTrack",
    "check_complete",
    "display_size",
    "find_sound_stream",
    "find_video_stream",
    "has_known_codec",
    "probe",
    "read_track",
]

_STATED = frozenset(("matroska", "avi", "flv"))
_TOLERANCE_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """A video as a user sees it: size after rotation and pixel aspect, rate, length, sound."""

    width_px: int
    height_px: int
    fps: float
    duration_s: float
    num_frames: int | None
    has_audio: bool
    container: str
    decoder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoTrack:
    """Header of a video stream: coded size, average rate, start on the file's clock."""

    width_px: int
    height_px: int
    pixel_aspect: float
    fps: float
    start_s: float
    duration_s: float | None
    num_frames: int | None
    has_audio: bool
    container: str
    suits_decord: bool


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Facts about a video; decodes its first frame and, if need be, counts its packets.

    ``decoder`` is the reader that :func:`avs.media.video.decode_video` tries first. Raises
    MediaError.
    """
    container, name = open_container(path)
    with container:
        try:
            stream = find_video_stream(str(path), container)
            track = _describe(str(path), container, stream, name)
            height_px, width_px = display_size(_first_frame(container, stream), track.pixel_aspect)
            duration_s = track.duration_s
            if duration_s is None:
                duration_s = _packet_duration_s(container, stream) - track.start_s
        except DECODER_ERRORS as error:
            raise MediaError(
                f"{path}: the video cannot be decoded ({decoder_reason(error)})"
            ) from error
    return VideoInfo(
        width_px=width_px,
        height_px=height_px,
        fps=track.fps,
        duration_s=duration_s,
        num_frames=track.num_frames,
        has_audio=track.has_audio,
        container=name,
        decoder="decord" if track.suits_decord else "pyav",
    )


def read_track(path: str | os.PathLike[str]) -> VideoTrack:
    """Header of the video stream of a file, nothing decoded; raises MediaError."""
    container, name = open_container(path)
    with container:
        return _describe(str(path), container, find_video_stream(str(path), container), name)


def find_video_stream(path: str, container: InputContainer) -> VideoStream:
    """The video stream that FFmpeg prefers, cover pictures left out; raises MediaError."""
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    for stream in moving:
        if best is not None and stream.index == best.index:
            return stream
    if not moving:
        what = "only sound" if container.streams.audio else "nothing that can be shown"
        raise MediaError(f"{path}: has no video stream ({what})")
    return moving[0]


def find_sound_stream(container: InputContainer) -> AudioStream | None:
    """The sound stream that FFmpeg prefers beside its video stream; None without sound."""
    picture = container.streams.best("video")
    stream = container.streams.best("audio", related=picture)
    return stream if isinstance(stream, AudioStream) else None


def has_known_codec(stream: AudioStream) -> bool:
    """Whether the stream can be decoded at all; PyAV's annotation says that it always can."""
    context: object = stream.codec_context
    return context is not None


def display_size(frame: VideoFrame, pixel_aspect: float) -> tuple[int, int]:
    """(height, width) in pixels of a decoded frame as shown: after pixel aspect and rotation."""
    height_px, width_px = frame.height, max(1, round(frame.width * pixel_aspect))
    return (width_px, height_px) if round(frame.rotation / 90) % 2 else (height_px, width_px)


def _describe(path: str, container: InputContainer, stream: VideoStream, name: str) -> VideoTrack:
    codec = stream.codec_context
    if codec is None:
        raise MediaError(f"{path}: the video codec is unknown")
    if codec.width <= 0 or codec.height <= 0 or codec.width * codec.height > MAX_FRAME_PIXELS:
        raise MediaError(f"{path}: frame size {codec.width} x {codec.height} cannot be used")
    missing_bytes = _missing_bytes(path, stream) if name == "mp4" else 0
    if missing_bytes > 0:
        raise MediaError(f"{path}: is cut off: at least {missing_bytes} bytes are missing")
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    time_base = float(stream.time_base or 0)
    start_s = (stream.start_time or 0) * time_base
    duration_s = stream.duration * time_base if stream.duration else None
    if duration_s is None and container.duration:
        # Matroska counts its length from time zero, others from their first packet
        origin_s = 0.0 if name == "matroska" else (container.start_time or 0) / 1e6
        duration_s = container.duration / 1e6 - max(0.0, start_s - origin_s)
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    if abs(aspect - 1) < 0.01 or not 1 / 16 <= aspect <= 16:
        aspect = 1.0
    return VideoTrack(
        width_px=codec.width,
        height_px=codec.height,
        pixel_aspect=aspect,
        fps=float(rate) if rate else 1.0,
        start_s=start_s,
        duration_s=duration_s,
        num_frames=stream.frames or None,
        has_audio=find_sound_stream(container) is not None,
        container=name,
        suits_decord=name == "mp4" and aspect == 1.0 and suits_decord(path, container, stream),
    )


def _missing_bytes(path: str, stream: VideoStream) -> int:
    """By how much the file is shorter than its index says (a download that stopped)."""
    entries = stream.index_entries
    if not len(entries):
        return 0
    last = entries[len(entries) - 1]
    return int(last.pos + last.size - Path(path).stat().st_size)


def check_complete(path: str | os.PathLike[str], track: VideoTrack, end_s: float) -> None:
    """Raise MediaError when the video ended well before its stated length, and its sound too.

    For containers whose head states a length but whose end may be missing without an error.
    """
    stated_s = track.duration_s
    if track.container not in _STATED or stated_s is None or end_s > stated_s - _TOLERANCE_S:
        return
    container, _ = open_container(path)
    with container:
        for packet in container.demux():
            if packet.pts is not None and packet.time_base:
                last_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                end_s = max(end_s, last_s - track.start_s)
    if end_s < stated_s - _TOLERANCE_S:
        raise MediaError(f"{path}: is cut off: ends after {end_s:.1f} s of {stated_s:.1f} s")


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    stream.codec_context.thread_count = 1
    for frame in container.decode(stream):
        return frame
    raise ValueError("no frame in it")


def _packet_duration_s(container: InputContainer, stream: VideoStream) -> float:
    container.seek(0, stream=stream)
    end = 0
    for packet in container.demux(stream):
        if packet.pts is not None:
            end = max(end, packet.pts + (packet.duration or 0))
    return float(end * (stream.time_base or 0))
