"""Which container a file is, by its first bytes, before any decoder sees it.

FFmpeg (inside PyAV and decord) chooses a demuxer by content, and some demuxers (HLS, DASH,
concat, SDP) open further files or network addresses that the file names. So a file must begin
with the magic of a container on an allow-list and its head must hold no playlist marker: an exotic
but harmless format is refused rather than a playlist let through. The name of a file never counts.
decord cannot be told which demuxer to take, so a first box or header whose size is made of text,
behind which FFmpeg would find an SDP, is refused too, and so are mp4 files with data elsewhere.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import av
from av.container import InputContainer

from avs.errors import MediaError
from avs.media.mp4_boxes import check_data_references

__all__ = [
    "CONTAINERS",
    "DECODER_ERRORS",
    "HEAD_BYTES",
    "check_container",
    "decoder_reason",
    "demuxer_name",
    "open_container",
    "sniff_container",
]

HEAD_BYTES = 4096

# What PyAV raises for files that are damaged, cut off or of an unknown codec.
DECODER_ERRORS = (av.FFmpegError, EOFError, OSError, ValueError, RuntimeError, MemoryError)

# Container -> the FFmpeg demuxer that is pinned when the file is opened.
CONTAINERS = {
    "mp4": "mov",
    "matroska": "matroska",
    "avi": "avi",
    "mpegts": "mpegts",
    "mpegps": "mpeg",
    "flv": "flv",
    "asf": "asf",
    "ogg": "ogg",
    "wav": "wav",
    "mp3": "mp3",
    "flac": "flac",
    "aac": "aac",
    "aiff": "aiff",
    "caf": "caf",
}

_PREFIXES = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"fLaC", "flac"),
    (b"\x00\x00\x01\xba", "mpegps"),
    (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "asf"),
    (b"caff\x00\x01", "caf"),
)
_RIFF_FORMS = {b"AVI ": "avi", b"WAVE": "wav", b"AIFF": "aiff", b"AIFC": "aiff"}
_MP4_BOXES = frozenset(
    (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx", b"pnot")
)
_PICTURE_BRANDS = frozenset((b"jp2 ", b"jpx ", b"jxl "))
_INDIRECTION = re.compile(
    rb"#EXTM3U|#EXT-X-|ffconcat|concat:|<MPD[\s>]|<SmoothStreamingMedia|<smil|\[playlist\]"
    rb"|\[InternetShortcut\]|v=0\r?\n|c=IN IP|rtsp://",
    re.IGNORECASE,
)
_TEXT = re.compile(rb"[\x09\x0a\x0d\x20-\x7e\x80-\xff]+\Z")


def sniff_container(head: bytes) -> str:
    """Name of the container that begins with ``head``, a key of :data:`CONTAINERS`.

    ``head``: the first bytes of the file (:data:`HEAD_BYTES` are enough, fewer if it is shorter).
    Raises MediaError with the plain reason: empty, a playlist, text, or an unknown format.
    """
    if not head:
        raise MediaError("is empty (0 bytes)")
    marker = _INDIRECTION.search(head[:HEAD_BYTES])
    if marker:
        raise MediaError(
            "is or contains a playlist that points to other files or addresses "
            f"(found {marker.group().decode('ascii').strip()!r}); give the video itself"
        )
    name = _by_magic(head)
    if name is not None:
        _check_first_size(name, head)
        return name
    if _TEXT.match(head[:HEAD_BYTES]):
        raise MediaError("is a text file, not a video or sound")
    known = ", ".join(CONTAINERS)
    raise MediaError(f"is not in a video or sound format that can be read ({known})")


def check_container(path: str | os.PathLike[str]) -> str:
    """Like :func:`sniff_container` for a file; reads only its head, and after an ID3 tag again.

    Raises MediaError that names the file, also when it cannot be read at all.
    """
    try:
        if not Path(path).is_file():
            raise MediaError(f"{path}: there is no such file")
        with Path(path).open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(_id3_bytes(head))
            after_tag = file.read(HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be read ({error})") from error
    try:
        name = sniff_container(head)
        # FFmpeg skips an ID3 tag before it looks for a playlist.
        if after_tag and after_tag != head:
            name = sniff_container(after_tag)
        if name == "mp4":
            check_data_references(path)
        return name
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None


def demuxer_name(container: str) -> str:
    """FFmpeg demuxer of a container name, to pin ``format=`` when opening."""
    return CONTAINERS[container]


def _by_magic(head: bytes) -> str | None:
    for prefix, name in _PREFIXES:
        if head.startswith(prefix):
            return name
    if head[:4] in (b"RIFF", b"RF64", b"FORM"):
        return _RIFF_FORMS.get(head[8:12])
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    if head[:3] == b"ID3":
        return "mp3"
    if head[:2] in (b"\xff\xf1", b"\xff\xf9"):
        return "aac"
    if _is_mp3_frame(head):
        return "mp3"
    return "mpegts" if _is_mpegts(head) else None


def _check_first_size(name: str, head: bytes) -> None:
    """Refuse a head that FFmpeg's content probing may take for something else.

    It looks for text line by line up to the first zero byte, and is sure of mp4 and Matroska only
    when it sees a plain brand or the whole EBML header.
    """
    is_odd = False
    if name == "mp4":
        is_odd = (head[0] != 0 and head[4:8] != b"mdat") or head[8:12] in _PICTURE_BRANDS
    elif name == "matroska" and len(head) > 12:
        num_bytes = 9 - head[4].bit_length()
        size = int.from_bytes(head[4 : 4 + num_bytes], "big") & ((1 << 7 * num_bytes) - 1)
        is_odd = num_bytes > 8 or size > HEAD_BYTES
    if is_odd:
        raise MediaError(f"looks like {name} but begins as no camera or program writes it")


def _is_mp3_frame(head: bytes) -> bool:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bitrate not in (0, 15) and rate != 3


def _is_mpegts(head: bytes) -> bool:
    """Sync bytes of three packets, of 188 bytes, or of 192 with a time code before each."""
    return any(
        len(head) > first + 2 * step and all(head[first + i * step] == 0x47 for i in range(3))
        for first, step in ((0, 188), (4, 192))
    )


def _id3_bytes(head: bytes) -> int:
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return size + 10


def open_container(path: str | os.PathLike[str]) -> tuple[InputContainer, str]:
    """Open a checked file with PyAV: the container (to be closed) and its name.

    The demuxer is pinned and only local files are allowed, so probing cannot reach a playlist.
    Raises MediaError that names the file.
    """
    name = check_container(path)
    try:
        container = av.open(
            f"file:{Path(path).resolve()}",
            mode="r",
            format=demuxer_name(name),
            container_options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except DECODER_ERRORS as error:
        raise MediaError(
            f"{path}: looks like {name} but cannot be opened ({decoder_reason(error)}); "
            "it may be cut off or damaged"
        ) from error
    return container, name


def decoder_reason(error: BaseException) -> str:
    """Reason of a decoder error in a few words, without numbers, paths or traceback text."""
    text = str(getattr(error, "strerror", None) or error).splitlines()[0:1]
    return text[0].strip().rstrip(".") if text and text[0].strip() else type(error).__name__
