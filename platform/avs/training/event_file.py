"""TensorBoard's event files, written and shortened without TensorBoard.

A file is a row of records (length, its checksum, data, its checksum), each an ``Event`` in the
encoding of protocol buffers. Only what a run logs is encoded here, field by field: importing a
package for it would cost every start of a training about a second. Field numbers are those of
TensorFlow's event.proto, summary.proto and tensor.proto; checksums are masked CRC-32C.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache

__all__ = [
    "first_records",
    "image_value",
    "kept_records",
    "scalar_value",
    "summary_event",
    "text_value",
]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_HEADER_BYTES, _CHECKSUM_BYTES = 12, 4
_RESTARTED = 1  # SessionLog.START: readers forget events of later steps
_STRINGS = 7  # DT_STRING
_RGB = 3


def first_records(wall_time_s: float, *, step: int) -> bytes:
    """What begins a file whose events are of later steps than ``step``.

    A reader that has already seen such events, of a start that was killed, forgets them.
    """
    version = _event(wall_time_s, 0, _bytes(3, b"brain.Event:2"))
    session = _event(wall_time_s, step + 1, _bytes(7, _number(1, _RESTARTED)))
    return _record(version) + _record(session)


def summary_event(wall_time_s: float, *, step: int, values: list[bytes]) -> bytes:
    """The record of an event with ``values``, each made by one of the functions below."""
    summary = b"".join(_bytes(1, value) for value in values)
    return _record(_event(wall_time_s, step, _bytes(5, summary)))


def scalar_value(tag: str, value: float) -> bytes:
    """A number by name."""
    return _bytes(1, tag.encode()) + _key(2, _FIXED32) + struct.pack("<f", value)


def image_value(tag: str, png: bytes, *, height_px: int, width_px: int) -> bytes:
    """A picture by name."""
    image = _number(1, height_px) + _number(2, width_px) + _number(3, _RGB) + _bytes(4, png)
    return _bytes(1, tag.encode()) + _bytes(4, image)


def text_value(tag: str, markdown: str) -> bytes:
    """A text by name."""
    plugin = _bytes(1, _bytes(1, b"text"))
    one = _bytes(2, _number(1, 1))  # a shape with one dimension of size 1
    tensor = _number(1, _STRINGS) + _bytes(2, one) + _bytes(8, markdown.encode())
    return _bytes(1, tag.encode()) + _bytes(9, plugin) + _bytes(8, tensor)


def kept_records(data: bytes, *, last_step: int) -> bytes:
    """The records of a file up to ``last_step``; a last one that was cut off is left out.

    Empty where none but those that begin a file would be left.
    """
    records = [(step, record) for step, record in _records(data) if step <= last_step]
    has_content = any(not _is_beginning(record) for _, record in records)
    return b"".join(record for _, record in records) if has_content else b""


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Step and bytes of each whole record."""
    place = 0
    while place + _HEADER_BYTES <= len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        end = place + _HEADER_BYTES + size + _CHECKSUM_BYTES
        if end > len(data):
            return
        event = data[place + _HEADER_BYTES : end - _CHECKSUM_BYTES]
        yield _step_of(event), data[place:end]
        place = end


def _is_beginning(record: bytes) -> bool:
    """Whether a record is one of :func:`first_records`."""
    fields = {number for number, _ in _fields(record[_HEADER_BYTES:-_CHECKSUM_BYTES])}
    return bool(fields & {3, 7})


def _step_of(event: bytes) -> int:
    return next((value for number, value in _fields(event) if number == 2), 0)


def _fields(message: bytes) -> Iterator[tuple[int, int]]:
    """Number and value (of those that are a varint, else 0) of each field of an event."""
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        number, kind = key >> 3, key & 7
        value = 0
        if kind == _VARINT:
            value, place = _read_varint(message, place)
        elif kind == _BYTES:
            size, place = _read_varint(message, place)
            place += size
        else:
            place += 8 if kind == _FIXED64 else 4
        yield number, value


def _event(wall_time_s: float, step: int, what: bytes) -> bytes:
    return _key(1, _FIXED64) + struct.pack("<d", wall_time_s) + _number(2, step) + what


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(value)) + value


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """A value and the place behind it."""
    value, shift = 0, 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place


def _record(event: bytes) -> bytes:
    size = struct.pack("<Q", len(event))
    return size + _checksum(size) + event + _checksum(event)


def _checksum(data: bytes) -> bytes:
    """CRC-32C (Castagnoli), masked as in TFRecord files."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<I", masked)


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)
