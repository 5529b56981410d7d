"""Sound of any file as 16 kHz mono.

PyAV decodes every format, so wav, m4a and video files take one path. The order is the reference's:
16-bit samples, mean of the channels, then resampling (see :mod:`avs.media.logmel`). Sound that
breaks off is kept up to the break with a warning, because a picture without its last second of
sound is still usable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from avs.media.containers import DECODER_ERRORS, decoder_reason, open_container
from avs.media.logmel import (
    EXAMPLE_S,
    SAMPLE_RATE_HZ,
    StreamResampler,
    clip_log_mel,
    log_mel,
    resample,
    silence_log_mel,
)

__all__ = [
    "EXAMPLE_S",
    "SAMPLE_RATE_HZ",
    "SoundTrack",
    "clip_log_mel",
    "from_int16",
    "log_mel",
    "read_audio",
    "read_sound_track",
    "resample",
    "silence_log_mel",
    "to_int16",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundTrack:
    """Decoded sound: float32 mono 16 kHz samples, the time of the first on the file's clock."""

    samples: NDArray[np.float32]
    start_s: float
    warnings: tuple[str, ...]


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples in [-1, 1] as 16-bit, round(32768 x) clipped: the inverse of :func:`from_int16`."""
    scaled = np.rint(np.nan_to_num(samples, posinf=1.0, neginf=-1.0) * 32768.0)
    return np.asarray(np.clip(scaled, -32768, 32767), np.int16)


def from_int16(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """16-bit samples as float32, x / 32768 (the convention of VGGish)."""
    return samples.astype(np.float32) / np.float32(32768.0)


def read_audio(
    path: str | os.PathLike[str], *, max_duration_s: float | None = None
) -> NDArray[np.float32] | None:
    """Sound of any file, float32 [n] in [-1, 1], mono (mean of channels), 16 kHz.

    At most ``max_duration_s`` of it are decoded. None when the file has no sound track. Sound that
    cannot be decoded to its end is padded with zeros to the length that the file states. Raises
    MediaError when the file cannot be opened.
    """
    track = read_sound_track(path, max_duration_s=max_duration_s)
    return None if track is None else track.samples


def read_sound_track(
    path: str | os.PathLike[str], *, max_duration_s: float | None = None
) -> SoundTrack | None:
    """Like :func:`read_audio`, with the start time and the warnings of the decoder."""
    container, _ = open_container(path)
    with container:
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            return None
        return _decode_track(str(path), container, stream, max_duration_s)


def _decode_track(
    path: str, container: InputContainer, stream: AudioStream, max_duration_s: float | None
) -> SoundTrack:
    frames = _FramesUntilError(container, stream)
    blocks = [np.zeros(0, np.float32)]
    num_left = round((max_duration_s or 0.0) * SAMPLE_RATE_HZ)
    for block in _resampled(frames):
        blocks.append(block if max_duration_s is None else block[:num_left])
        num_left -= len(blocks[-1])
        if max_duration_s is not None and num_left <= 0:
            break
    samples = np.concatenate(blocks)
    if not frames.error:
        return SoundTrack(samples=samples, start_s=frames.start_s, warnings=())
    warning = (
        f"{path}: the sound breaks off after {len(samples) / SAMPLE_RATE_HZ:.2f} s "
        f"({frames.error}); the rest is taken as silence"
    )
    if stream.duration and stream.time_base:
        stated_s = min(float(stream.duration * stream.time_base), max_duration_s or 3600.0)
        num_missing = max(0, round(stated_s * SAMPLE_RATE_HZ) - len(samples))
        samples = np.concatenate([samples, np.zeros(num_missing, np.float32)])
    return SoundTrack(samples=samples, start_s=frames.start_s, warnings=(warning,))


class _FramesUntilError:
    """Decoded frames of a sound stream up to its end or to the first error, which is kept."""

    def __init__(self, container: InputContainer, stream: AudioStream) -> None:
        self.error = ""
        self.start_s = 0.0
        self._container = container
        self._stream = stream

    def __iter__(self) -> Iterator[AudioFrame]:
        is_first = True
        try:
            self._stream.codec_context.thread_count = 1
            for frame in self._container.decode(self._stream):
                if is_first and frame.time is not None:
                    self.start_s = frame.time
                is_first = False
                yield frame
        except DECODER_ERRORS as error:
            self.error = decoder_reason(error)


def _resampled(frames: _FramesUntilError) -> Iterator[NDArray[np.float32]]:
    """Mono 16 kHz pieces; a rate that changes within the stream starts a new resampler."""
    resampler: StreamResampler | None = None
    rate_hz = 0
    for frame in frames:
        if frame.sample_rate != rate_hz and frame.sample_rate > 0:
            if resampler is not None:
                yield resampler.finish()
            rate_hz = frame.sample_rate
            resampler = StreamResampler(rate_hz)
        if resampler is not None:
            yield resampler.push(_mono(frame))
    if resampler is not None:
        yield resampler.finish()


def _mono(frame: AudioFrame) -> NDArray[np.float32]:
    """Mean of the channels of a frame after quantisation to 16 bits, float32 [n]."""
    values: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        scaled = (values.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(values.dtype, np.integer):
        scaled = values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    else:
        scaled = values.astype(np.float32)
    mono: NDArray[np.float32] = from_int16(to_int16(scaled)).mean(axis=0, dtype=np.float32)
    return mono
