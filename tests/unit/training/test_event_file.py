"""Event files: what another reader of the format finds in them."""

from __future__ import annotations

import struct

import pytest
from events import read_events
from tensorboardX.proto.event_pb2 import SessionLog

from avs.training.event_file import (
    first_records,
    image_value,
    kept_records,
    scalar_value,
    summary_event,
    text_value,
)


def _file(*steps: int, first: int = 0) -> bytes:
    records = [summary_event(1.5, step=k, values=[scalar_value("a", k / 4)]) for k in steps]
    return first_records(1.0, step=first) + b"".join(records)


def test_scalars_pictures_and_texts_are_read_as_they_were_written() -> None:
    png = bytes(range(256)) * 3
    values = [
        scalar_value("train/loss", -0.125),
        image_value("clip/ä", png, height_px=300, width_px=7),
        text_value("configuration", "    é: 1\n"),
    ]
    version, session, event = read_events(
        first_records(2.5, step=299) + summary_event(3.25, step=2**40, values=values)
    )
    assert (version.wall_time, version.file_version) == (2.5, "brain.Event:2")
    assert (session.step, session.session_log.status) == (300, SessionLog.START)
    assert (event.wall_time, event.step) == (3.25, 2**40)
    scalar, image, text = event.summary.value
    assert (scalar.tag, scalar.simple_value) == ("train/loss", -0.125)
    assert image.tag == "clip/ä"
    assert (image.image.height, image.image.width, image.image.colorspace) == (300, 7, 3)
    assert image.image.encoded_image_string == png
    assert text.tag == "configuration"
    assert text.metadata.plugin_data.plugin_name == "text"
    assert list(text.tensor.string_val) == ["    é: 1\n".encode()]
    assert [dim.size for dim in text.tensor.tensor_shape.dim] == [1]


def test_later_steps_are_cut_and_the_others_stay_as_they_are() -> None:
    data = _file(1, 2, 3, 300, 4)
    assert [event.step for event in read_events(kept_records(data, last_step=3))] == [0, 1, 1, 2, 3]
    assert kept_records(data, last_step=300) == data


@pytest.mark.parametrize("missing", [1, 4, 15, 30])
def test_a_record_that_was_cut_off_is_left_out(missing: int) -> None:
    data = _file(1, 2)
    kept = kept_records(data[:-missing], last_step=9)
    assert [event.step for event in read_events(kept)][:3] == [0, 1, 1]
    assert data.startswith(kept)
    assert len(kept) < len(data)


def test_a_file_without_anything_to_keep_becomes_empty() -> None:
    assert kept_records(_file(5, 6, first=4), last_step=4) == b""
    assert kept_records(b"", last_step=4) == b""


def test_a_damaged_record_is_noticed_by_its_checksum() -> None:
    data = bytearray(_file(1))
    data[-6] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        read_events(bytes(data))
    (size,) = struct.unpack("<Q", data[:8])
    assert size < len(data)
