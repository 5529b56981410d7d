"""What a client may not say in a live session, and that each of it ends with its reason."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import pytest
from live_wire import HELLO, TOKEN, FakeBackend, Service, Wire, in_loop

PICTURE = struct.pack("<Bd", 1, 1.0) + b"\xff\xd8\xff"


def _ends(*said: str | bytes, **changes: float) -> tuple[str, int]:
    """Error code and close code of a session in which this is said."""
    found: list[tuple[str, int]] = []

    async def scenario() -> None:
        wire = Wire()
        async with wire.session(FakeBackend(), **changes) as task:
            for message in said:
                wire.say(message)
            while (event := await wire.heard())["event"] != "error":
                assert event["event"] in ("ready", "mask")
            assert set(event) == {"event", "error"}
            assert set(event["error"]) == {"code", "message"}
            found.append((event["error"]["code"], await wire.heard()))
            await task
            assert not wire.left_over()

    in_loop(scenario())
    return found[0]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("{}", ("unauthorized", 1008)),
        (json.dumps({"token": TOKEN, "model": "large"}), ("unknown_model", 1008)),
        (json.dumps({"token": TOKEN, "threshold": 1.5}), ("bad_message", 1008)),
        (json.dumps({"token": TOKEN, "objects": 1}), ("bad_message", 1008)),
        (json.dumps({"token": TOKEN, "treshold": 0.5}), ("bad_message", 1008)),
        ('{"token": "\\ud800"}', ("bad_message", 1008)),
        ("[" * 4000, ("bad_message", 1008)),
        ('"' + "x" * 5000 + '"', ("message_too_big", 1009)),
        ("null", ("bad_message", 1008)),
        (PICTURE, ("bad_message", 1008)),
    ],
)
def test_a_first_message_that_does_not_open_a_session(first: str | bytes, expected: Any) -> None:
    assert _ends(first) == expected


def test_objects_are_refused_where_the_model_finds_none() -> None:
    async def scenario() -> None:
        wire, service = Wire(), Service()
        service.finds_objects = False
        async with wire.session(FakeBackend(), service) as task:
            wire.say(json.dumps({"token": TOKEN, "objects": True}))
            assert (await wire.heard())["error"]["code"] == "invalid_field"
            assert await wire.heard() == 1008
            await task

    in_loop(scenario())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"", "bad_message"),
        (struct.pack("<Bd", 1, 1.0), "bad_message"),
        (struct.pack("<Bd", 1, 1.0) + b"GIF89a", "bad_message"),
        (struct.pack("<Bd", 2, 1.0) + b"odd", "bad_message"),
        (struct.pack("<Bd", 3, 1.0) + b"what", "bad_message"),
        (struct.pack("<Bd", 1, float("nan")) + b"\xff\xd8\xff", "bad_message"),
        (struct.pack("<Bd", 2, float("inf")) + b"ab", "bad_message"),
        (struct.pack("<Bd", 2, -1.0) + b"ab", "bad_message"),
        (struct.pack("<Bd", 2, 1.7e12) + b"ab", "bad_message"),
        ("text", "bad_message"),
    ],
)
def test_a_message_that_is_neither_picture_nor_sound_ends_it(said: Any, expected: str) -> None:
    assert _ends(HELLO, said) == (expected, 1008)


@pytest.mark.parametrize("kind", [PICTURE, struct.pack("<Bd", 2, 1.0) + b"ab"])
def test_a_time_that_goes_back_ends_it(kind: bytes) -> None:
    earlier = kind[:1] + struct.pack("<d", 0.9) + kind[9:]
    assert _ends(HELLO, kind, kind, earlier)[0] == "bad_message"


def test_what_is_too_big_or_too_fast_ends_it() -> None:
    assert _ends(HELLO, bytes(101), max_message_bytes=100) == ("message_too_big", 1009)
    sound = struct.pack("<Bd", 2, 1.0) + bytes(1000)
    assert _ends(HELLO, *[sound] * 30, max_bytes_per_s=10_000.0) == ("too_fast", 1008)


def test_silence_ends_it() -> None:
    assert _ends(hello_timeout_s=0.01) == ("timeout", 1008)
    assert _ends(HELLO, idle_timeout_s=0.01) == ("timeout", 1008)
    assert _ends(HELLO, max_session_s=0.01) == ("timeout", 1008)


def test_nothing_that_a_client_sends_gets_out_as_an_exception() -> None:
    dice = random.Random(0)

    def garbage() -> str | bytes:
        data = dice.randbytes(dice.randrange(40))
        if dice.random() < 0.3:
            return data.decode("latin-1")
        return bytes([dice.choice((0, 1, 2, 255))]) + data if dice.random() < 0.9 else data

    async def scenario() -> None:
        for _ in range(200):
            wire = Wire()
            async with wire.session(FakeBackend()) as task:
                if dice.random() < 0.8:
                    wire.say(HELLO)
                wire.say(garbage())
                wire.leave()
                await task
            sent = [message["type"] for message in wire.left_over()]
            assert sent.count("websocket.close") <= 1

    in_loop(scenario())
