"""Event files read by a package that knows TensorFlow's own descriptions of them."""

from __future__ import annotations

import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c


def read_events(data: bytes) -> list[Any]:
    """Every event of a file; ValueError for a checksum that does not fit."""
    events, place = [], 0
    while place < len(data):
        header, check = data[place : place + 8], data[place + 8 : place + 12]
        (size,) = struct.unpack("<Q", header)
        body = data[place + 12 : place + 12 + size]
        end = data[place + 12 + size : place + 16 + size]
        for what, told in ((header, check), (body, end)):
            if struct.pack("<I", masked_crc32c(what)) != told:
                raise ValueError(f"checksum at byte {place}")
        events.append(Event.FromString(body))
        place += 16 + size
    return events


def read_folder(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Step and value of everything logged, by tag, in the order of the files."""
    found = defaultdict(list)
    for path in sorted(folder.iterdir()):
        for event in read_events(path.read_bytes()):
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                found[value.tag].append((event.step, getattr(value, kind)))
    return dict(found)
