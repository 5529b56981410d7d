"""The tracks of an mp4 or mov file that is written while another file is read.

Times are those of the source, moved by one common offset so that the file starts at zero: sound and
picture keep their distance, and variable frame rates stay as they are. Frames are encoded without
B-frames: some per cent larger, but no reordering delay that players treat differently.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avs.media.containers import DECODER_ERRORS

__all__ = [
    "COPIED_CODECS",
    "CopiedSound",
    "EncodedFrames",
    "EncodedMatte",
    "EncodedPicture",
    "EncodedSound",
    "start_of",
]

COPIED_CODECS = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus"))
_AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_FRAME = 1024
_HD_HEIGHT_PX = 720


def start_of(source: InputContainer) -> Fraction:
    """Time of the source that becomes zero, in seconds; 0 when it starts earlier than zero."""
    return Fraction(max(0, source.start_time or 0), 1_000_000)


class EncodedFrames(ABC):
    """A picture track whose frames have the time stamps of ``source``, of one codec each class."""

    codec: str
    pix_fmt: str

    def __init__(
        self,
        sink: OutputContainer,
        source: VideoStream,
        size_px: tuple[int, int],
        start_s: Fraction,
    ) -> None:
        rate = source.average_rate or source.guessed_rate or Fraction(25)
        stream = sink.add_stream(self.codec, rate=rate)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size_px
        stream.pix_fmt = self.pix_fmt
        self._time_base = source.time_base or 1 / rate
        stream.codec_context.time_base = self._time_base
        self._sink, self._stream = sink, stream
        self._offset = round(start_s / self._time_base)
        self._step = max(1, round(1 / rate / self._time_base))
        self._last_pts = -self._step

    @abstractmethod
    def _frame(self, pixels: NDArray[np.uint8]) -> VideoFrame:
        """The pixels in the form of the codec."""

    @property
    def next_time_s(self) -> float:
        """Time of the next frame where the source has none."""
        return float((self._last_pts + self._step) * self._time_base)

    def add(self, pixels: NDArray[np.uint8], pts: int | None) -> None:
        """Encode a frame shown at ``pts`` of the source; a missing or repeated one is moved on."""
        frame = self._frame(pixels)
        wanted = self._last_pts + self._step if pts is None else pts - self._offset
        self._last_pts = frame.pts = max(wanted, self._last_pts + 1)
        frame.time_base = self._time_base
        self._sink.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write the frames that the encoder still holds."""
        self._sink.mux(self._stream.encode(None))


class EncodedPicture(EncodedFrames):
    """H.264 yuv420p track; frames of even size, RGB [H, W, 3]."""

    codec, pix_fmt = "libx264", "yuv420p"

    def __init__(
        self,
        sink: OutputContainer,
        source: VideoStream,
        size_px: tuple[int, int],
        start_s: Fraction,
    ) -> None:
        super().__init__(sink, source, size_px, start_s)
        # With its macroblock tree x264 gives other bytes for the same frames now and then.
        steady = {"threads": "1", "mbtree": "0"}
        self._stream.options = {"preset": "veryfast", "crf": "20", "bf": "0", **steady}
        is_hd = size_px[0] >= _HD_HEIGHT_PX
        self._matrix = Colorspace.ITU709 if is_hd else Colorspace.ITU601
        context = self._stream.codec_context
        context.colorspace = 1 if is_hd else 6
        context.color_primaries = 1 if is_hd else 6
        context.color_trc = 1 if is_hd else 6
        context.color_range = 1

    def _frame(self, pixels: NDArray[np.uint8]) -> VideoFrame:
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return rgb.reformat(
            format=self.pix_fmt,
            dst_colorspace=self._matrix,
            dst_color_range=ColorRange.MPEG,
            threads=1,  # see pyav_reader.upright
        )


class EncodedMatte(EncodedFrames):
    """QuickTime Animation track with alpha [H, W], 255 = opaque white; what is clear is black."""

    codec, pix_fmt = "qtrle", "argb"

    def _frame(self, pixels: NDArray[np.uint8]) -> VideoFrame:
        argb = np.repeat(pixels[:, :, None], 4, axis=2)
        return VideoFrame.from_ndarray(argb, format=self.pix_fmt)


class CopiedSound:
    """Sound passed on packet by packet."""

    def __init__(self, sink: OutputContainer, source: AudioStream, start_s: Fraction) -> None:
        self._sink = sink
        self._stream = sink.add_stream_from_template(source)
        self._offset = round(start_s / source.time_base) if source.time_base else 0

    def add(self, packet: Packet[Any]) -> None:
        """Write a packet of the source."""
        if packet.dts is None:
            return
        packet.dts -= self._offset
        if packet.pts is not None:
            packet.pts -= self._offset
        packet.stream = self._stream
        self._sink.mux(packet)

    def finish(self) -> None:
        """Nothing is held back."""


class EncodedSound:
    """Sound decoded and encoded as AAC, mono or stereo; it ends where the source is damaged."""

    def __init__(self, sink: OutputContainer, source: AudioStream, start_s: Fraction) -> None:
        rate_hz = source.rate if source.rate in _AAC_RATES_HZ else 48000
        layout = "mono" if source.codec_context.layout.nb_channels == 1 else "stereo"
        stream = sink.add_stream("aac", rate=rate_hz, layout=layout)
        assert isinstance(stream, AudioStream)
        self._sink, self._source, self._stream = sink, source, stream
        self._start_s = start_s
        self._is_damaged = False
        self._resampler = AudioResampler(
            format="fltp", layout=layout, rate=rate_hz, frame_size=_AAC_FRAME
        )

    def add(self, packet: Packet[Any]) -> None:
        """Decode a packet of the source and encode what it holds."""
        if self._is_damaged:
            return
        try:
            frames = self._source.decode(packet)
        except DECODER_ERRORS:
            self._is_damaged = True
            return
        for frame in frames:
            if frame.pts is not None and frame.time_base:
                frame.pts -= round(self._start_s / frame.time_base)
            self._encode(self._resampler.resample(frame))

    def finish(self) -> None:
        """Encode the rest."""
        self._encode(self._resampler.resample(None))
        self._sink.mux(self._stream.encode(None))

    def _encode(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            self._sink.mux(self._stream.encode(frame))
