"""Which videos decord reads rightly.

It is asked first because it seeks to the sampled frames, but only for what has been seen to be
right; everything else is PyAV's. Seen wrong: VP8 (counts invisible frames), 10-bit (other colours),
widths under its line padding (shape [1, 1, 96]), mirrored pictures (turned upside down), parts of
an mp4 that an edit list cuts away (shown), open groups of pictures (later frames after a seek),
rotation in Matroska (ignored), mpegts (wrong frame after a seek). Not read at all: VP9 without a
duration, AV1. It has no timestamps for containers that store none (avi), and among several video
streams it might choose another.
"""

from __future__ import annotations

import itertools

from av.container import InputContainer
from av.video.stream import VideoStream

from avs.media.containers import DECODER_ERRORS
from avs.media.mp4_boxes import has_plain_matrices

__all__ = ["suits_decord"]

_CODECS = frozenset(("h264", "hevc", "mpeg4"))
_MIN_SIDE_PX = 32
# NAL unit types of pictures that begin a closed group, and where the header of the stream says in
# how many bytes the length of a unit is written.
_IDR = {"h264": (5,), "hevc": (19, 20)}
_LENGTH_AT = {"h264": 4, "hevc": 21}
# A minute; the way an encoder groups its pictures does not change later.
_NUM_PACKETS = 2000


def suits_decord(path: str, container: InputContainer, stream: VideoStream) -> bool:
    """Whether decord gives the frames of an mp4 file that PyAV gives; leaves it at its start."""
    codec = stream.codec_context
    pix_fmt = codec.pix_fmt or ""
    return (
        codec.codec.canonical_name in _CODECS
        and len(container.streams.video) == 1
        and pix_fmt.startswith(("yuv4", "yuvj4"))
        and not pix_fmt.endswith(("le", "be"))
        and min(codec.width, codec.height) >= _MIN_SIDE_PX
        and has_plain_matrices(path)
        and not _is_trimmed(stream)
        and _has_closed_groups(container, stream)
    )


def _is_trimmed(stream: VideoStream) -> bool:
    """Whether an edit list leaves out frames that the file holds."""
    entries = stream.index_entries
    is_shorter = 0 < len(entries) != stream.frames > 0
    return is_shorter or any(entry.is_discard for entry in entries)


def _has_closed_groups(container: InputContainer, stream: VideoStream) -> bool:
    """Whether decoding can begin at every key frame without loss.

    Not so where pictures are shown before the key frame that is stored in front of them, and where
    a key frame lets later pictures lean on earlier ones.
    """
    entries = stream.index_entries
    if len(entries) and sum(entry.is_keyframe for entry in entries) < 2:
        return True
    key_pts: int | None = None
    try:
        for packet in itertools.islice(container.demux(stream), _NUM_PACKETS):
            if packet.pts is None:
                continue
            if packet.is_keyframe:
                key_pts = packet.pts
                if not _begins_closed_group(stream, bytes(packet)):
                    return False
            elif key_pts is not None and packet.pts < key_pts:
                return False
    except DECODER_ERRORS:
        return False  # PyAV says in words what is wrong
    finally:
        container.seek(0, stream=stream)
    return True


def _begins_closed_group(stream: VideoStream, data: bytes) -> bool:
    """Whether a key frame is an IDR picture; only H.264 and HEVC know other kinds."""
    name = stream.codec_context.codec.canonical_name
    header = stream.codec_context.extradata or b""
    if name not in _IDR:
        return True
    if len(header) <= _LENGTH_AT[name]:
        return False
    length_bytes = (header[_LENGTH_AT[name]] & 3) + 1
    at = 0
    while at + length_bytes < len(data):
        first = data[at + length_bytes]
        if (first & 31 if name == "h264" else first >> 1 & 63) in _IDR[name]:
            return True
        at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
    return False
