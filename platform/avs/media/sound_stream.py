"""Decoded sound of a stream from any place on, as mono pieces without gaps.

A jump lands where the file allows, the decoder needs a moment to settle, and time stamps may leave
holes or overlap; what comes out of here is samples whose place tells their time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from avs.media.containers import DECODER_ERRORS, decoder_reason
from avs.media.probing import has_known_codec

__all__ = ["SoundFrames", "from_int16", "mono_pieces", "to_int16"]

_SEEK_AFTER_S = 3.0
# After a jump: half a second for the decoder to settle, up to a second to the next whole one.
_SEEK_BACK_S = 2.0
_KEEP_BACK_S = 1.5
# Time stamps of some writers jitter by tens of milliseconds; more than a second back is a clock
# that started anew.
_GAP_S = 0.1
_RESET_S = 1.0
# Converted together: an AAC frame is 23 ms, and calling numpy for each took longer than decoding.
_FRAMES_A_RUN = 32


class SoundFrames:
    """Decoded frames of a sound stream, from shortly before ``from_s``, up to its end or error.

    After a jump ``skip_s`` of them is to be left out, up to a whole second of the stream: there the
    resampler's grid is that of the whole stream, and a window has the samples of the whole.
    """

    def __init__(
        self, container: InputContainer, stream: AudioStream, from_s: float | None
    ) -> None:
        self.error = ""
        self.given_from_s = 0.0
        self.skip_s = 0.0
        self.stated_s = (
            float(stream.duration * stream.time_base)
            if stream.duration and stream.time_base
            else None
        )
        self._container = container
        self._stream = stream
        self._from_s = from_s
        self._jumps = from_s is not None and from_s > _SEEK_AFTER_S

    @property
    def start_s(self) -> float:
        """Time of the first sample that is kept."""
        return self.given_from_s + self.skip_s

    @property
    def lead_s(self) -> float:
        """Length of the sound before the wanted start."""
        return 0.0 if self._from_s is None else max(0.0, self._from_s - self.start_s)

    def __iter__(self) -> Iterator[AudioFrame]:
        is_first = True
        if not has_known_codec(self._stream):
            self.error = "its codec is unknown"
            return
        try:
            self._stream.codec_context.thread_count = 1
            for frame in self._frames():
                if is_first and frame.time is not None:
                    self.given_from_s = frame.time
                    self.skip_s = self._to_whole_second(frame.time)
                is_first = False
                yield frame
        except DECODER_ERRORS as error:
            self.error = decoder_reason(error)

    def _to_whole_second(self, time_s: float) -> float:
        """What to leave out after a jump to ``time_s``."""
        if not self._jumps:
            return 0.0
        since_s = time_s - float((self._stream.start_time or 0) * (self._stream.time_base or 0))
        skip_s = max(0.0, math.ceil(since_s - 1e-3) - since_s)
        return skip_s if time_s + skip_s <= (self._from_s or 0.0) else 0.0  # starts late: keep all

    def _frames(self) -> Iterator[AudioFrame]:
        if self._from_s is None or not self._jumps or not self._stream.time_base:
            yield from self._container.decode(self._stream)
            return
        warm_s = self._from_s - _KEEP_BACK_S
        for back_s in (_SEEK_BACK_S, 10.0, 60.0, self._from_s):
            at_s = max(0.0, self._from_s - back_s)
            self._container.seek(round(at_s / self._stream.time_base), stream=self._stream)
            frames = self._container.decode(self._stream)
            first = next(frames, None)
            if first is not None and first.time is not None and first.time <= warm_s:
                break  # not behind the place, as streams without an index may land
        else:
            if first is not None:  # the stream begins there
                yield first
        # A decoder's first sound after a jump lacks what came before, so it is not kept.
        yield from (frame for frame in frames if frame.time is None or frame.time >= warm_s)


def mono_pieces(
    frames: SoundFrames, *, fill_gaps: bool
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Rate and mono samples [n] of some frames at a time, from ``frames.start_s`` on.

    ``fill_gaps``: with silence where time stamps leave a gap, and without what overlaps.
    """
    num_left: int | None = None
    for rate_hz, mono in _pieces(frames, fill_gaps=fill_gaps):
        num_left = round(frames.skip_s * rate_hz) if num_left is None else num_left
        cut = min(num_left, len(mono))
        num_left -= cut
        yield rate_hz, mono[cut:]


def _pieces(frames: SoundFrames, *, fill_gaps: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
    given_s = 0.0
    run: list[AudioFrame] = []
    for frame in frames:
        rate_hz = frame.sample_rate
        if rate_hz <= 0:
            continue
        late_s = 0.0 if frame.time is None else frame.time - frames.given_from_s - given_s
        is_late = fill_gaps and late_s > _GAP_S
        overlaps = fill_gaps and -_RESET_S < late_s < -_GAP_S
        if run and (is_late or overlaps or len(run) == _FRAMES_A_RUN or _differ(run[0], frame)):
            yield run[0].sample_rate, _mono(run)
            run = []
        if is_late:
            for _ in range(int(late_s)):  # second by second: a gap may be hours
                yield rate_hz, np.zeros(rate_hz, np.float32)
            yield rate_hz, np.zeros(round(late_s % 1 * rate_hz), np.float32)
            given_s += late_s
        if overlaps:
            mono = _mono([frame])[round(-late_s * rate_hz) :]
            yield rate_hz, mono
            given_s += len(mono) / rate_hz
        else:
            run.append(frame)
            given_s += frame.samples / rate_hz
    if run:
        yield run[0].sample_rate, _mono(run)


def _differ(one: AudioFrame, other: AudioFrame) -> bool:
    """Whether two frames cannot be converted together."""
    kinds = [(f.sample_rate, f.format.name, f.layout.nb_channels) for f in (one, other)]
    return kinds[0] != kinds[1]


def _mono(frames: list[AudioFrame]) -> NDArray[np.float32]:
    """Mean of the channels of frames of one kind, after quantisation to 16 bits, float32 [n]."""
    values: NDArray[Any] = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    if not frames[0].format.is_planar:
        values = values.reshape(-1, frames[0].layout.nb_channels).T
    if values.dtype == np.uint8:
        scaled = (values.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(values.dtype, np.integer):
        scaled = values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    else:
        scaled = values.astype(np.float32)
    mono: NDArray[np.float32] = from_int16(to_int16(scaled)).mean(axis=0, dtype=np.float32)
    return mono


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples in [-1, 1] as 16-bit, round(32768 x) clipped: the inverse of :func:`from_int16`."""
    scaled = np.rint(np.nan_to_num(samples, posinf=1.0, neginf=-1.0) * 32768.0)
    return np.asarray(np.clip(scaled, -32768, 32767), np.int16)


def from_int16(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """16-bit samples as float32, x / 32768 (the convention of VGGish)."""
    return samples.astype(np.float32) / np.float32(32768.0)
