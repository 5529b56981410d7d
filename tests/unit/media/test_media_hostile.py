"""Files and names that point elsewhere: refused in words, and nothing is ever asked of a server."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from media_clips import numbered_frames, write_clip

from avs.errors import MediaError
from avs.media.audio import read_audio
from avs.media.containers import check_container
from avs.media.decord_reader import read_with_decord
from avs.media.encoding import write_mp4
from avs.media.probing import VideoTrack, probe
from avs.media.pyav_reader import read_with_pyav
from avs.media.render import write_overlay
from avs.media.sampling import SamplePlan
from avs.media.video import Sampling, decode_video

_PLAN = SamplePlan(sampling=Sampling.TIME, num_frames=1, size_px=None, max_duration_s=60.0, fps=8.0)
_TRACK = VideoTrack(
    width_px=64,
    height_px=48,
    pixel_aspect=1.0,
    fps=8.0,
    start_s=0.0,
    duration_s=2.0,
    num_frames=None,
    has_audio=True,
    container="mp4",
    suits_decord=True,
)
READERS: dict[str, Callable[[str], object]] = {
    "check": check_container,
    "probe": probe,
    "decode": lambda p: decode_video(p, size_px=None, sampling=Sampling.TIME),
    "sound": read_audio,
    "decord": lambda p: read_with_decord(p, _PLAN),
    "pyav": lambda p: read_with_pyav(p, _PLAN, _TRACK),
    "overlay": lambda p: write_overlay(p, f"{p}.out.mp4", masks=[], mask_time_s=[]),
}


class Listener:
    """A TCP and UDP port that takes down who calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._threads = [
            threading.Thread(target=serve, daemon=True)
            for serve in (self._serve_tcp, self._serve_udp)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Let what is under way come in, then stop."""
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as last:
                last.connect(("127.0.0.1", self.port))
                last.send(b"last")
        for thread in self._threads:
            thread.join()
        self._tcp.close()
        self._udp.close()

    def _serve_tcp(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            with connection:
                connection.settimeout(1.0)
                data = connection.recv(4096)
            if data == b"last":
                return
            self.calls.append(f"tcp {data!r}")

    def _serve_udp(self) -> None:
        while (data := self._udp.recv(4096)) != b"last":
            self.calls.append(f"udp {data!r}")


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A server of which nothing may be asked; that is checked after the test."""
    server = Listener()
    yield server
    server.close()
    assert server.calls == []


def _refused(path: str, why: str) -> None:
    for name, read in READERS.items():
        with pytest.raises(MediaError, match=why) as error:
            read(path)
        assert path in str(error.value), name


def _playlists(port: int) -> dict[str, bytes]:
    url = f"http://127.0.0.1:{port}/segment.ts".encode()
    return {
        "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n" + url + b"\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile '" + url + b"'\n",
        "dash": b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        b'profiles="urn:mpeg:dash:profile:isoff-live:2011"><BaseURL>' + url + b"</BaseURL></MPD>",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        b"m=video %d RTP/AVP 96\na=rtpmap:96 H264/90000\n" % port,
        "smooth": b'<SmoothStreamingMedia MajorVersion="2"><StreamIndex Url="' + url + b'"/>',
    }


@pytest.mark.parametrize("kind", ["hls", "concat", "dash", "sdp", "smooth"])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.m3u8", "clip.sdp"])
def test_a_playlist_is_refused_by_its_bytes(
    tmp_path: Path, listener: Listener, kind: str, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(_playlists(listener.port)[kind])
    _refused(str(path), "playlist")


@pytest.mark.parametrize(
    "scheme", ["http", "https", "rtsp", "rtmp", "tcp", "udp", "rtp", "hls+http"]
)
def test_an_address_is_not_a_path(listener: Listener, scheme: str) -> None:
    _refused(f"{scheme}://127.0.0.1:{listener.port}/clip.m3u8", "no such file")


@pytest.mark.parametrize(
    "prefix", ["concat:", "file:", "cache:", "crypto:", "async:", "subfile,,:"]
)
def test_a_protocol_before_a_real_file_is_not_a_path(tmp_path: Path, prefix: str) -> None:
    path = write_clip(tmp_path / "clip.mp4", numbered_frames(16))
    _refused(f"{prefix}{path}", "no such file")


@pytest.mark.parametrize("kind", ["hls", "concat", "sdp"])
@pytest.mark.parametrize(("name", "magic"), [("mp4", b"\0\0\0\x18ftypisom"), ("ts", b"")])
def test_a_playlist_behind_a_good_beginning_is_refused(
    tmp_path: Path, listener: Listener, kind: str, name: str, magic: bytes
) -> None:
    playlist = _playlists(listener.port)[kind]
    head = magic or b"".join(b"\x47" + bytes(187) for _ in range(4))
    path = tmp_path / f"clip.{name}"
    path.write_bytes(head + bytes(16) + b"\n" + playlist)
    _refused(str(path), "playlist")


def test_a_header_of_text_that_hides_an_sdp_is_refused(tmp_path: Path, listener: Listener) -> None:
    """PyAV, told to take it for Matroska, plays it; decord would find the SDP in the padding."""
    clip = write_clip(tmp_path / "a.mkv", numbered_frames(16), container_format="matroska")
    whole = clip.read_bytes()
    size = int.from_bytes(whole[5:12], "big")
    padding = (b"\n" + b"x" * 79) * 60 + b"\n" + _playlists(listener.port)["sdp"]
    length = 0x202020
    void = b"\xec" + struct.pack(">I", 0x10000000 | length) + padding.ljust(length, b"y")
    inner = b"\x42\x82\x84webm" + void
    head = whole[:4] + struct.pack(">I", 0x10000000 | len(inner)) + inner
    path = tmp_path / "clip.mkv"
    path.write_bytes(head + whole[12 + size :])
    _refused(str(path), "begins as no camera")


def test_a_first_box_of_text_that_hides_an_sdp_is_refused(
    tmp_path: Path, listener: Listener
) -> None:
    clip = write_clip(
        tmp_path / "a.mp4",
        numbered_frames(16),
        options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    )
    length = 0x01010101
    padding = (b"\n" + b"x" * 79) * 60 + b"\n" + _playlists(listener.port)["sdp"]
    box = struct.pack(">I", length) + b"ftypmp42" + padding
    path = tmp_path / "clip.mp4"
    with path.open("wb") as file:
        file.write(box)
        file.truncate(length)
        file.seek(length)
        file.write(clip.read_bytes())
    _refused(str(path), "begins as no camera")


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _with_reference(data: bytes, entry: bytes) -> bytes:
    """The mp4 with every data reference replaced; its header has to lie at the end."""
    out, at = b"", 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            body = _with_reference(body, entry)
        elif kind == b"dref":
            body = body[:8] + entry
        out += _box(kind, body)
        at += size
    return out


def _entries(port: int, secret: Path) -> dict[str, bytes]:
    url = f"http://127.0.0.1:{port}/data.mp4".encode()
    outside = bytes(4)
    # An alias record of QuickTime that names a file; FFmpeg reads it when it is told to.
    alias = bytearray(150)
    alias[50:60] = b"secret.mp4"
    alias += struct.pack(">hh", 2, len(bytes(secret))) + bytes(secret) + struct.pack(">hh", -1, 0)
    return {
        "url": _box(b"url ", outside + url + b"\0"),
        "file": _box(b"url ", outside + f"file://{secret}".encode() + b"\0"),
        "urn": _box(b"urn ", outside + b"name\0" + url + b"\0"),
        "alias": _box(b"alis", outside + bytes(alias)),
        "second": _box(b"url ", b"\0\0\0\1") + _box(b"url ", outside + url + b"\0"),
    }


@pytest.mark.parametrize("kind", ["url", "file", "urn", "alias", "second"])
def test_data_kept_elsewhere_is_refused(tmp_path: Path, listener: Listener, kind: str) -> None:
    clip, path = tmp_path / "a.mp4", tmp_path / "clip.mp4"
    write_mp4(clip, numbered_frames(16), fps=8, samples=None)
    secret = write_clip(tmp_path / "secret.mp4", numbered_frames(16))
    entry = _entries(listener.port, secret)[kind]
    path.write_bytes(_with_reference(clip.read_bytes(), entry))
    _refused(str(path), "in another file or at an address")
    path.write_bytes(_with_reference(clip.read_bytes(), _box(b"alis", b"\0\0\0\1")))
    assert len(decode_video(path, size_px=None, sampling=Sampling.TIME).frames) == 2


@pytest.mark.parametrize(
    ("inner", "why"),
    [
        (
            _box(b"rmra", _box(b"rmda", _box(b"rdrf", bytes(4) + b"url http://x"))),
            "reference movie",
        ),
        (_box(b"cmov", _box(b"dcom", b"zlib")), "compressed header"),
    ],
)
def test_headers_that_only_point_are_refused(tmp_path: Path, inner: bytes, why: str) -> None:
    path = tmp_path / "clip.mov"
    path.write_bytes(_box(b"ftyp", b"qt  \0\0\0\0") + _box(b"moov", inner))
    _refused(str(path), why)


def test_a_file_of_nothing_but_box_heads_ends_in_words(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_box(b"ftyp", b"isom") + _box(b"free", b"") * 1_000_001)
    with pytest.raises(MediaError, match="more than 1000000 boxes"):
        check_container(path)


@pytest.mark.parametrize("size", [0, 1, 7, 2**31, 2**32 - 1])
def test_boxes_of_impossible_size_are_not_followed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_box(b"ftyp", b"isom") + struct.pack(">I4s", size, b"moov") + b"\xff" * 8)
    with pytest.raises(MediaError, match=r"cannot be opened|no video stream"):
        probe(path)
