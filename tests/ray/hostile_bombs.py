"""Files that lead elsewhere, and small ones that say, or become, something very large."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

__all__ = ["bombs", "changing_size", "pointing_file"]

_RATE_HZ = 8000
_FLAC_FRAME = 4608
_SILENCE_S = 10 * 3600


def bombs(clip: bytes) -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes and expected code of the error; none where only the beginning is read.

    ``clip``: an ordinary mp4 of H.264 and AAC.
    """
    yield "wide.mov", _wide(16384), "unreadable"
    yield "less wide.mov", _wide(12000), "unreadable"
    yield "wide png.mov", _pictures("mov", "png", 5000), "too_many_pixels"
    yield "wide jpeg.mov", _pictures("mov", "mjpeg", 8000), "too_many_pixels"
    yield "growing.mov", changing_size(3500), ""
    yield "endless.mov", changing_size(30_000), "unreadable"
    yield "frames.mp4", _counted(clip, b"stts", (1, 1_000_000, 1)), "too_many_frames"
    yield "sizes.mp4", _counted(clip, b"stsz", (1, 1_000_000)), "unreadable"
    yield "hours.mp4", _counted(clip, b"mdhd", (0, 0, 1, 2)), "unreadable"
    yield "silence.mkv", _silence("matroska", with_picture=True), "too_long"
    yield "silence.mp4", _silence("mp4", with_picture=True), ""
    yield "silence.flac", _silence("flac", with_picture=False), "unreadable"


def pointing_file(rng: random.Random, good: dict[str, bytes], port: int) -> bytes:
    """A playlist, bare or behind a good beginning, or an mp4 whose samples lie elsewhere."""
    url = f"{rng.choice(['http', 'rtsp', 'tcp', 'hls+http'])}://127.0.0.1:{port}/a.ts".encode()
    if rng.random() < 0.25:
        entry = struct.pack(">I4sI", 13 + len(url), b"url ", 0) + url + b"\0"
        whole = good["clip.mp4"]
        at = whole.index(b"dref") + 12
        return whole[:at] + entry + whole[at + 12 :]
    lists = (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n" + url + b"\n#EXT-X-ENDLIST\n",
        b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>' + url,
        b"ffconcat version 1.0\nfile '" + url + b"'\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video %d RTP/AVP 96\n" % port,
        b'<asx version="3.0"><entry><ref href="' + url + b'"/></entry></asx>',
        b"[playlist]\nFile1=" + url + b"\nNumberOfEntries=1\n",
        b"RTSPtextRTSP://127.0.0.1:%d/a\n" % port,
        url + b"\n",
    )
    heads = [
        b"",
        b"",
        b"\xef\xbb\xbf",
        b"\0\0\0\x18ftypisom",
        b"ID3\4\0\0\0\0\0\0",
        b"OggS",
        b"FLV\1",
    ]
    heads += [good["clip.webm"][:40], good["clip.avi"][:200], (b"\x47" + bytes(187)) * 4]
    padding = rng.choice([b"", b"\n", bytes(16), b"\n" + bytes(5000)])
    return rng.choice(heads) + padding + rng.choice(lists)


def _pictures(container: str, codec: str, side_px: int, *, count: int = 3) -> bytes:
    """Flat pictures, which pack into nearly nothing."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as sink:
        stream = _stream(sink, codec, side_px)
        for packet in _packets(stream, side_px, count):
            sink.mux(packet)
    return file.getvalue()


def _stream(sink: Any, codec: str, side_px: int) -> VideoStream:
    stream = sink.add_stream(codec, rate=4)
    assert isinstance(stream, VideoStream)
    stream.width = stream.height = side_px
    stream.pix_fmt = "gray" if codec == "png" else "yuvj420p"
    return stream


def _packets(stream: VideoStream, side_px: int, count: int) -> Iterator[Packet[Any]]:
    flat = np.full((side_px, side_px), 99, np.uint8)
    for index in range(count):
        frame = VideoFrame.from_ndarray(flat, format="gray")
        frame.pts, frame.time_base = index, Fraction(1, 4)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _wide(side_px: int) -> bytes:
    """JPEG pictures of 64 x 64 whose headers, and that of the file, say otherwise."""
    whole = bytearray(_pictures("mov", "mjpeg", 64))
    at = whole.index(b"jpeg", whole.index(b"stsd"))
    struct.pack_into(">HH", whole, at + 28, side_px, side_px)
    at = -1
    while (at := whole.find(b"\xff\xc0\x00\x11", at + 1)) >= 0:
        struct.pack_into(">HH", whole, at + 5, side_px, side_px)
    return bytes(whole)


def changing_size(side_px: int, *, count: int = 12) -> bytes:
    """PNG pictures of 64 x 64 and then larger ones, of which the header of the file is silent."""
    small, large = _one_png(64), _one_png(min(side_px, 3500))
    if side_px > 3500:  # only said: there are not so many lines in it
        large = large[:16] + struct.pack(">II", side_px, side_px) + large[24:]
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as sink:
        stream = _stream(sink, "png", 64)
        for packet in _packets(stream, 64, 1):
            sink.mux(packet)
        for index in range(1, count):
            packet = Packet(small if index < count - 6 else large)
            packet.stream, packet.time_base = stream, Fraction(1, 4)
            packet.pts = packet.dts = index
            sink.mux(packet)
    return file.getvalue()


def _one_png(side_px: int) -> bytes:
    with av.open(io.BytesIO(_pictures("mov", "png", side_px, count=1))) as source:
        [picture] = [bytes(packet) for packet in source.demux(video=0) if packet.size]
    return picture


def _counted(clip: bytes, kind: bytes, numbers: tuple[int, ...]) -> bytes:
    """The clip with other numbers at the beginning of a table of its first track."""
    out = bytearray(clip)
    at = out.index(kind) + 8
    struct.pack_into(f">{len(numbers)}I", out, at, *numbers)
    return bytes(out)


def _silence(container: str, *, with_picture: bool) -> bytes:
    """Hours of nothing to hear, beside a second of picture."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as sink:
        pictures = _stream(sink, "mjpeg", 64) if with_picture else None
        voice = sink.add_stream("flac", rate=_RATE_HZ, layout="mono")
        assert isinstance(voice, AudioStream)
        for packet in _packets(pictures, 64, 4) if pictures else ():
            sink.mux(packet)
        nothing = np.zeros((1, _FLAC_FRAME), np.int16)
        [silent, *_] = [p for p in _sound(voice, nothing) if p.size]
        data = bytes(silent)
        for index in range(_SILENCE_S * _RATE_HZ // _FLAC_FRAME):
            packet = Packet(data)
            packet.stream, packet.time_base = voice, Fraction(1, _RATE_HZ)
            packet.pts = packet.dts = index * _FLAC_FRAME
            packet.duration = _FLAC_FRAME
            sink.mux(packet)
    return file.getvalue()


def _sound(stream: AudioStream, samples: np.ndarray) -> Iterator[Packet[Any]]:
    for start in (0, 1):
        frame = AudioFrame.from_ndarray(samples, "s16", "mono")
        frame.sample_rate, frame.pts = _RATE_HZ, start * samples.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)
