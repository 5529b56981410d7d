"""Small videos and what attackers make of them: each case follows from its number alone."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from hostile_bombs import pointing_file

__all__ = ["good_files", "hostile_file"]

_FPS, _NUM_FRAMES, _SIDE_PX, _RATE_HZ = 8, 12, 64, 48000
_SEGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
# Name -> FFmpeg's container, video codec, sound codec, options of the container.
_KINDS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "clip.mp4": ("mp4", "libx264", "aac", {}),
    "parts.mp4": ("mp4", "libx264", "aac", _SEGMENTED),
    "clip.mov": ("mov", "mjpeg", "pcm_s16le", {}),
    "clip.mkv": ("matroska", "mpeg4", "flac", {}),
    "clip.webm": ("webm", "libvpx", "libopus", {}),
    "clip.avi": ("avi", "mpeg4", "libmp3lame", {}),
    "clip.ts": ("mpegts", "mpeg2video", "mp2", {}),
    "sound.wav": ("wav", "", "pcm_s16le", {}),
    "sound.ogg": ("ogg", "", "libopus", {}),
}
_PARENTS = frozenset(
    (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"moof", b"traf", b"mvex", b"edts")
)
# Box -> places behind its head where a number of 32 bits lies: scales, lengths, counts, sizes.
_NUMBERS = {
    b"mvhd": (12, 16),
    b"mdhd": (12, 16),
    b"tkhd": (20, 36, 40, 76, 80),
    b"stsd": (4, 8, 40),  # 40: width and height
    b"stts": (4, 8, 12),
    b"ctts": (4, 8, 12),
    b"stsz": (4, 8, 12),
    b"stsc": (4, 8, 12, 16),
    b"stco": (4, 8),
    b"stss": (4, 8),
    b"elst": (4, 8, 12, 16),
    b"trun": (4, 8, 12, 16),
    b"tfhd": (4, 8, 12, 16),
    b"trex": (4, 12, 16),
    b"dref": (4, 8),
}
_ODD = (0, 1, 7, 8, 0xFFFF, 0x4000_4000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF)
_CODECS = (b"hvc1", b"av01", b"vp09", b"mp4v", b"jpeg", b"png ", b"raw ", b"xxxx", b"encv", b"text")
_HEAD_BYTES = 1500


def good_files(folder: Path) -> dict[str, bytes]:
    """Clips of 1.5 s in many containers, by name; the first is an ordinary mp4."""
    return {name: _written(folder / name, *kind) for name, kind in _KINDS.items()}


def hostile_file(number: int, good: dict[str, bytes], port: int) -> tuple[str, bytes]:
    """Name and bytes of one case; ``port``: where nothing in it may lead anyone."""
    rng = random.Random(f"media {number}")
    name = rng.choice(list(good))
    if number % 3 == 0:
        name = rng.choice(["clip.mp4", "parts.mp4", "clip.mov"])
        change = rng.choice([*_BOX_CHANGES, *_CHANGES])
    else:
        change = rng.choice(_CHANGES)
    if number % 5 == 4:
        return f"case {number}.mp4", pointing_file(rng, good, port)
    return f"case {number} {name}", change(rng, good[name], good)


def _written(path: Path, container: str, video: str, sound: str, options: dict[str, str]) -> bytes:
    with av.open(str(path), "w", format=container, container_options=options) as sink:
        pictures = None
        if video:
            pictures = sink.add_stream(video, rate=_FPS)
            assert isinstance(pictures, VideoStream)
            pictures.height = pictures.width = _SIDE_PX
            pictures.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
        voice = sink.add_stream(sound, rate=_RATE_HZ, layout="mono")
        assert isinstance(voice, AudioStream)
        if pictures is not None:
            _encode_pictures(sink, pictures)
        _encode_tone(sink, voice)
    return path.read_bytes()


def _encode_pictures(sink: OutputContainer, stream: VideoStream) -> None:
    rng = np.random.default_rng(0)
    for index in range(_NUM_FRAMES):
        pixels = np.full((_SIDE_PX, _SIDE_PX, 3), 15 * index, np.uint8)
        pixels[8:40, 8 + index : 40 + index] = rng.integers(0, 255, 3)
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, _FPS)
        sink.mux(stream.encode(frame))
    sink.mux(stream.encode(None))


def _encode_tone(sink: OutputContainer, stream: AudioStream) -> None:
    length = _NUM_FRAMES * _RATE_HZ // _FPS
    tone = (8000 * np.sin(np.arange(length) * 0.05)).astype(np.int16)
    for start in range(0, length, 960):
        frame = AudioFrame.from_ndarray(tone[None, start : start + 960], "s16", "mono")
        frame.sample_rate, frame.pts = _RATE_HZ, start
        frame.time_base = Fraction(1, _RATE_HZ)
        sink.mux(stream.encode(frame))
    sink.mux(stream.encode(None))


Change = Callable[[random.Random, bytes, dict[str, bytes]], bytes]


def _flipped(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    out = bytearray(data)
    end = rng.choice([_HEAD_BYTES, len(out)])
    for _bit in range(rng.choice([1, 4, 64, 500])):
        out[rng.randrange(min(end, len(out)))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    return data[: rng.randrange(1, len(data))]


def _blotted(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    start = rng.randrange(len(data))
    length = rng.randrange(1, 4000)
    blot = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)])
    return data[:start] + blot + data[start + length :]


def _saturated(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    out = bytearray(data)
    for _number in range(rng.choice([1, 3, 20])):
        order = rng.choice("<>")
        struct.pack_into(f"{order}I", out, rng.randrange(8, _HEAD_BYTES), rng.choice(_ODD))
    return bytes(out)


def _spliced(rng: random.Random, data: bytes, good: dict[str, bytes]) -> bytes:
    other = rng.choice(list(good.values()))
    return data[: rng.randrange(32, len(data))] + other[rng.randrange(len(other)) :]


def _repeated(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.randrange(16, 3000)]
    return data[:start] + piece * rng.choice([2, 10, 60]) + data[start:]


def _only_magic(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    return data[: rng.choice([12, 32, 64, 200])] + rng.randbytes(rng.choice([1, 100, 30_000]))


def _packed(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../clip.mp4", bytes(1_000_000))
    bomb = gzip.compress(bytes(5_000_000))
    return rng.choice([gzip.compress(data), archive.getvalue(), bomb]) + rng.choice([b"", data])


def _with_tail(rng: random.Random, data: bytes, good: dict[str, bytes]) -> bytes:
    return data + _packed(rng, data, good)


def _picture(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'
    html = b"<!DOCTYPE html><html><body><video src=clip.mp4></video></body></html>"
    jpeg = b"\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0" + rng.randbytes(200)
    gif = b"GIF89a\x40\0\x40\0\x80\0\0" + rng.randbytes(200)
    return rng.choice([svg, html, jpeg, gif]) + rng.choice([b"", data])


_CHANGES: tuple[Change, ...] = (
    *(_flipped, _flipped, _cut, _blotted, _saturated, _saturated, _spliced, _repeated),
    *(_only_magic, _packed, _with_tail, _picture),
)


def _boxes(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, int]]:
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        yield kind, start
        if kind in _PARENTS:
            yield from _boxes(data, start + 8, start + size)
        start += max(8, size)


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _lying_size(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    out = bytearray(data)
    _kind, start = rng.choice(list(_boxes(data)))
    struct.pack_into(">I", out, start, rng.choice(_ODD))
    return bytes(out)


def _lying_number(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    out = bytearray(data)
    found = [(start + 8 + at) for k, start in _boxes(data) for at in _NUMBERS.get(k, ())]
    for place in rng.sample(found, rng.choice([1, 1, 2, 5])):
        if place + 4 <= len(out):
            struct.pack_into(">I", out, place, rng.choice(_ODD))
    return bytes(out)


def _other_codec(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    out = bytearray(data)
    start = rng.choice([at for kind, at in _boxes(data) if kind == b"stsd"])
    out[start + 20 : start + 24] = rng.choice(_CODECS)
    return bytes(out)


def _nested(rng: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    kind, depth = rng.choice([b"moov", b"trak", b"free"]), rng.choice([3, 300, 20_000])
    heads = (struct.pack(">I4s", 8 * (depth - k), kind) for k in range(depth))
    empty = rng.choice([_box(b"moov", b""), _box(b"moov", _box(b"mvhd", bytes(100))), data])
    return _box(b"ftyp", b"isom\0\0\2\0isom") + b"".join(heads) + empty


_BOX_CHANGES: tuple[Change, ...] = (
    *(_lying_size, _lying_number, _lying_number, _lying_number, _other_codec, _nested),
)
