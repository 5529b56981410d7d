"""What the boxes of an mp4 or mov file say that must be known before a decoder opens it.

Two things FFmpeg tells only when it is too late, or not at all: whether the samples lie in another
file or at an address (a data reference), and whether the picture is mirrored. Only box heads are
read, wherever the header lies, so a file of any size costs a few reads. FFmpeg does not follow
data references unless asked; this refuses them in words instead of decoding the wrong bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from avs.errors import MediaError

__all__ = ["check_data_references", "has_plain_matrices"]

# Far more than an hour of one-frame fragments; ends the walk over a file of nothing but heads.
_MAX_BOXES = 1_000_000
_PARENTS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"dinf", b"gmhd"))
_REFERENCE_MOVIES = frozenset((b"rmra", b"rmda", b"rdrf"))
_IN_THIS_FILE = 1
# version and flags, times, ids, duration and the rest in front of the matrix, for version 0 and 1
_MATRIX_AT = {b"mvhd": (36, 48), b"tkhd": (40, 52)}


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    start: int
    stop: int


def check_data_references(path: str | os.PathLike[str]) -> None:
    """Raise MediaError when an mp4 or mov file keeps its samples elsewhere or hides where.

    Refused: ``dref`` entries (``url``, ``urn``, ``alis``, ``rsrc``) that do not say "in this
    file", reference movies, and compressed headers, which could hold either.
    """
    with Path(path).open("rb") as file:
        for box in _walk(file):
            if box.kind in _REFERENCE_MOVIES:
                raise MediaError("is a reference movie, which points to other files or addresses")
            if box.kind == b"cmov":
                raise MediaError("has a compressed header, which may point to other files")
            if box.kind == b"dref":
                _check_entries(file, box)


def has_plain_matrices(path: str | os.PathLike[str]) -> bool:
    """Whether pictures are shown as stored or turned by quarters, and none mirrored or skewed."""
    with Path(path).open("rb") as file:
        for box in _walk(file):
            if box.kind not in _MATRIX_AT:
                continue
            a, b, c, d = _matrix(file, box)
            is_upright = b == c == 0 and a > 0 and d > 0
            is_quarter = (b == c == 0 or a == d == 0) and a * d - b * c > 0
            if not (is_upright if box.kind == b"mvhd" else is_quarter):
                return False
    return True


def _check_entries(file: BinaryIO, dref: _Box) -> None:
    # version, flags and the number of entries come first; the number itself is not trusted
    for entry in _children(file, dref.start + 8, dref.stop):
        file.seek(entry.start)
        flags = int.from_bytes(file.read(4), "big") & 0xFFFFFF
        if not flags & _IN_THIS_FILE:
            kind = entry.kind.decode("latin-1").strip()
            raise MediaError(
                f"keeps its picture or sound in another file or at an address (data reference "
                f"{kind!r}); give one file that holds everything"
            )


def _matrix(file: BinaryIO, box: _Box) -> tuple[int, int, int, int]:
    """The four turning values of a header box; those of no turning where it is too short."""
    file.seek(box.start)
    head = file.read(100)
    at = _MATRIX_AT[box.kind][1 if head[:1] == b"\x01" else 0]
    if len(head) < at + 20:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack_from(">5i", head, at)
    return a, b, c, d


def _walk(file: BinaryIO) -> Iterator[_Box]:
    """All boxes down to those in ``dinf``, in the order of the file."""
    size = file.seek(0, os.SEEK_END)
    pending = [_children(file, 0, size)]
    num_boxes = 0
    while pending:
        box = next(pending[-1], None)
        if box is None:
            pending.pop()
            continue
        num_boxes += 1
        if num_boxes > _MAX_BOXES:
            raise MediaError(f"has more than {_MAX_BOXES} boxes")
        yield box
        if box.kind in _PARENTS:
            pending.append(_children(file, box.start, box.stop))


def _children(file: BinaryIO, start: int, stop: int) -> Iterator[_Box]:
    while start + 8 <= stop:
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind, body = int.from_bytes(head[:4], "big"), head[4:8], start + 8
        if size == 1:
            size, body = int.from_bytes(head[8:16], "big"), start + 16
        end = stop if size == 0 else start + size
        if end < body:
            return
        yield _Box(kind, body, min(end, stop))
        start = end
