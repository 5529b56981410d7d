"""What a client of ``WS /v1/live`` may send, checked: its first message, then pictures and sound.

Binary messages are byte 0 = kind, bytes 1..8 = time in seconds as little-endian float64, then the
payload: a header of nine bytes that every language can write, and no base64 around pictures.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avs.serving.messages import ApiError

__all__ = ["Hello", "Picture", "Sound", "bad_message", "parse_hello", "parse_media"]

_MAX_HELLO_CHARS = 4096
_MAX_SHOWN_CHARS = 40
_HEADER = struct.Struct("<Bd")
_PICTURE, _SOUND = 1, 2
_JPEG_MAGIC = b"\xff\xd8\xff"
# The year 2286 in seconds: a larger number is a clock in milliseconds.
_MAX_TIME_S = 1e10


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """The first message. threshold: probability between 0 and 1. objects: tell every visible one.

    ``model`` None = the one that the service chooses.
    """

    token: str | None = None
    model: str | None = None
    threshold: float = 0.5
    objects: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG file by its magic; whether it can be decoded is not known yet."""

    time_s: float
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Sound:
    """int16 [n] at 16 kHz, mono; ``time_s`` of the first sample."""

    time_s: float
    samples: NDArray[np.int16]


def bad_message(message: str) -> ApiError:
    """The error for what the protocol does not allow."""
    return ApiError(400, "bad_message", message)


def _is_text(value: Any) -> bool:
    # Printable: a lone surrogate, which JSON can say, cannot be encoded again.
    return value is None or (isinstance(value, str) and value.isprintable())


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "token": (_is_text, "a text or null"),
    "model": (_is_text, "a name or null"),
    "threshold": (_is_probability, "a number between 0 and 1"),
    "objects": (lambda value: isinstance(value, bool), "true or false"),
}


def parse_hello(text: str) -> Hello:
    """The first message; every field may be left out.

    Raises:
        ApiError: it is too long, no JSON object, or has an unknown field or a wrong value.
    """
    if len(text) > _MAX_HELLO_CHARS:
        raise ApiError(413, "message_too_big", f"the first message has {len(text)} characters")
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise bad_message("the first message is not JSON") from None
    if not isinstance(given, dict):
        raise bad_message("the first message is not a JSON object")
    for name, value in given.items():
        if name not in _FIELDS:
            shown, known = name[:_MAX_SHOWN_CHARS], ", ".join(_FIELDS)
            raise bad_message(f"{shown!r} is not known in the first message. Known: {known}.")
        is_right, wanted = _FIELDS[name]
        if not is_right(value):
            raise bad_message(f"{name} must be {wanted}")
    return Hello(**given)


def parse_media(data: bytes) -> Picture | Sound:
    """A binary message.

    Raises:
        ApiError: it is too short, of an unknown kind, at no possible time, or its payload is
            neither a JPEG file nor whole 16-bit samples.
    """
    if len(data) <= _HEADER.size:
        raise bad_message(f"a message of {len(data)} bytes holds neither picture nor sound")
    kind, time_s = _HEADER.unpack_from(data)
    if not (math.isfinite(time_s) and 0 <= time_s <= _MAX_TIME_S):
        raise bad_message(f"time {time_s:g} must be seconds from 0 to {_MAX_TIME_S:g}")
    payload = data[_HEADER.size :]
    if kind == _PICTURE:
        if not payload.startswith(_JPEG_MAGIC):
            raise bad_message("a picture must be a JPEG file")
        return Picture(time_s, payload)
    if kind == _SOUND:
        if len(payload) % 2:
            raise bad_message("sound must be whole 16-bit samples")
        return Sound(time_s, np.frombuffer(payload, "<i2"))
    raise bad_message(f"kind {kind} is not known: 1 is a picture, 2 is sound")
