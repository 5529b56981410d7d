"""A video written anew frame by frame: the one loop behind overlays and mattes.

It is a stream: a frame is decoded, made into another picture, encoded and forgotten, at its
original time, so memory does not depend on the length. Sound is copied packet by packet where mp4
can carry the codec, which is lossless and keeps it in step; other codecs become AAC.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.containers import DECODER_ERRORS, decoder_reason, open_container
from avs.media.muxing import (
    COPIED_CODECS,
    CopiedSound,
    EncodedFrames,
    EncodedSound,
    start_of,
)
from avs.media.probing import find_sound_stream, find_video_stream, has_known_codec

__all__ = ["Rendering", "write_rendering"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendering:
    """What a video is made into: ``name`` for messages, FFmpeg's name of the container, the codec.

    ``paint`` gives the picture of a decoded frame, of ``size_px`` = (height, width), and of its
    time in seconds from the first one. ``has_sound``: that of the source.
    """

    name: str
    container: str
    encoder: type[EncodedFrames]
    size_px: tuple[int, int]
    paint: Callable[[VideoFrame, float], NDArray[np.uint8]]
    has_sound: bool


def write_rendering(
    video_path: str | os.PathLike[str], out_path: str | os.PathLike[str], rendering: Rendering
) -> None:
    """Write ``out_path``, which appears when it is complete; raises MediaError."""
    target = Path(out_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            _transcode(video_path, partial, rendering, copy_sound=True)
        except DECODER_ERRORS:
            if not rendering.has_sound:
                raise
            # Odd sound packets that mp4 refuses; damage in the picture fails again below.
            _transcode(video_path, partial, rendering, copy_sound=False)
        partial.replace(target)
    except DECODER_ERRORS as error:
        raise MediaError(
            f"{video_path}: the {rendering.name} cannot be written ({decoder_reason(error)})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _transcode(
    video_path: str | os.PathLike[str], partial: Path, rendering: Rendering, *, copy_sound: bool
) -> None:
    """One pass over the packets: the picture decoded, painted, encoded; the sound passed on."""
    source, name = open_container(video_path)
    with (
        source,
        av.open(
            f"file:{partial.resolve()}",
            mode="w",
            format=rendering.container,
            container_options={"movflags": "+faststart"},
        ) as sink,
    ):
        stream = find_video_stream(str(video_path), source)
        stream.codec_context.thread_count = 1
        audio = find_sound_stream(source) if rendering.has_sound else None
        if audio is not None and not has_known_codec(audio):
            audio = None
        start_s = start_of(source)
        picture = rendering.encoder(sink, stream, rendering.size_px, start_s)
        sound = None if audio is None else _sound(sink, audio, start_s, copy_sound=copy_sound)
        first_s: float | None = None
        for packet in source.demux([stream] if audio is None else [stream, audio]):
            if packet.stream.index != stream.index:
                if sound is not None:
                    sound.add(packet)
                continue
            for frame in stream.decode(packet):
                # avi stores no display times: frames follow each other at its rate
                pts = None if name == "avi" else frame.pts
                time_s = picture.next_time_s if pts is None else (frame.time or 0.0)
                if first_s is None:
                    first_s = time_s
                picture.add(rendering.paint(frame, time_s - first_s), pts)
        picture.finish()
        if sound is not None:
            sound.finish()


def _sound(
    sink: OutputContainer, audio: AudioStream, start_s: Fraction, *, copy_sound: bool
) -> CopiedSound | EncodedSound:
    is_copied = copy_sound and audio.codec.canonical_name in COPIED_CODECS
    return (CopiedSound if is_copied else EncodedSound)(sink, audio, start_s)
