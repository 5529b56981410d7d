"""A live session: who gets in, what is dropped, what a picture is answered with, how it ends."""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from live_wire import HELLO, LIMITS, SIDE_PX, TOKEN, FakeBackend, Service, Wire, in_loop
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from avs.errors import ConfigError
from avs.serving.live import serve_live
from avs.serving.messages import ApiError, Refusal

PICTURE = struct.pack("<Bd", 1, 1.0) + b"\xff\xd8\xff"


def test_a_session_over_a_real_socket_interface() -> None:
    service, backend = Service(), FakeBackend()

    async def live(websocket: WebSocket) -> None:
        await serve_live(
            websocket,
            backend=backend,
            limits=LIMITS,
            authorise=service.authorise,
            models=service.model,
        )

    with TestClient(Starlette(routes=[WebSocketRoute("/", live)])) as client:
        with client.websocket_connect("/") as session:
            session.send_text(json.dumps({"token": TOKEN, "model": "small", "threshold": 0.3}))
            assert session.receive_json() == {
                "event": "ready",
                "model": "small",
                "checkpoint": "abc",
                "classes": ["background", "sounding"],
                "num_frames": 4,
            }
            session.send_bytes(PICTURE)
            event = session.receive_json()
            assert event.pop("latency_ms") >= 0
            assert event == {
                "event": "mask",
                "time_s": 1.0,
                "height": 48,
                "width": 64,
                "objects": [],
                "dropped": 0,
            }
        with client.websocket_connect("/") as session:
            session.send_text("{}")
            assert session.receive_json()["error"]["code"] == "unauthorized"
            with pytest.raises(WebSocketDisconnect) as closed:
                session.receive_json()
            assert closed.value.code == 1008
    assert (backend.requests[0].model, backend.requests[0].threshold) == ("small", 0.3)
    assert service.num_open == 0


def test_the_newest_picture_wins_and_one_request_is_made_at_a_time() -> None:
    async def scenario() -> None:
        wire, backend = Wire(), FakeBackend(num_permits=0)
        async with wire.session(backend):
            wire.say(HELLO)
            await wire.heard()
            wire.picture(1.0)
            await backend.asked.wait()
            for time_s in (1.1, 1.2, 1.3):
                wire.picture(time_s)
            await wire.taken()
            assert len(backend.requests) == 1
            backend.permits.release()
            assert (await wire.heard())["time_s"] == 1.0
            backend.permits.release()
            event = await wire.heard()
            assert (event["time_s"], event["dropped"]) == (1.3, 2)

    in_loop(scenario())


def test_a_client_that_reads_slowly_gets_the_newest_and_nothing_queues() -> None:
    async def scenario() -> None:
        wire, backend = Wire(), FakeBackend()
        async with wire.session(backend):
            wire.say(HELLO)
            await wire.heard()
            wire.flows.clear()
            wire.picture(1.0)
            await wire.blocked.wait()
            for k in range(50):
                wire.picture(2.0 + k / 100)
            await wire.taken()
            assert len(backend.requests) == 1
            wire.flows.set()
            assert [(await wire.heard())["time_s"] for _ in range(2)] == [1.0, 2.49]
            assert len(backend.requests) == 2

    in_loop(scenario())


def test_a_picture_comes_with_the_sound_and_the_frames_before_it() -> None:
    async def scenario() -> None:
        wire, backend = Wire(), FakeBackend()
        async with wire.session(backend):
            wire.say(HELLO)
            await wire.heard()
            wire.sound(0.0, np.arange(32_000))
            for number, time_s in enumerate((0.5, 1.5)):
                wire.picture(time_s, number + 7)
                await wire.heard()
        first, second = backend.requests
        assert first.past.shape == (0, SIDE_PX, SIDE_PX, 3)
        expected = np.concatenate([np.zeros(8000), np.arange(8000)]) / 32768
        np.testing.assert_array_equal(first.samples, expected.astype(np.float32))
        assert (second.past == np.full((1, SIDE_PX, SIDE_PX, 3), 7)).all()
        expected = np.concatenate([np.zeros(8000), np.arange(24_000)]) / 32768
        np.testing.assert_array_equal(second.samples, expected.astype(np.float32))

    in_loop(scenario())


def test_a_picture_that_is_refused_does_not_end_the_session() -> None:
    async def scenario() -> None:
        wire, backend = Wire(), FakeBackend()
        async with wire.session(backend):
            wire.say(HELLO)
            await wire.heard()
            backend.answer = Refusal(422, "bad_picture", "is broken")
            wire.picture(1.0)
            error = {"code": "bad_picture", "message": "is broken"}
            assert await wire.heard() == {"event": "error", "error": error}
            backend.answer = None
            wire.picture(2.0)
            assert (await wire.heard())["event"] == "mask"
        assert len(backend.requests[1].past) == 0

    in_loop(scenario())


@pytest.mark.parametrize(
    ("answer", "code", "closed"),
    [
        (Refusal(503, "unavailable", "none is there"), "unavailable", 1013),
        (ApiError(429, "busy", "too many"), "busy", 1013),
        (KeyError("/a/secret/path"), "internal", 1011),
        (asyncio.CancelledError(), "internal", 1011),
    ],
)
def test_a_backend_that_cannot_answer_ends_it(answer: Any, code: str, closed: int) -> None:
    async def scenario() -> None:
        wire, backend, service = Wire(), FakeBackend(), Service()
        backend.answer = answer
        async with wire.session(backend, service) as task:
            wire.say(HELLO)
            await wire.heard()
            wire.picture(1.0)
            event = await wire.heard()
            assert event["error"]["code"] == code
            assert "secret" not in str(event)
            assert await wire.heard() == closed
            await task

    in_loop(scenario())


def test_leaving_while_the_backend_works_cancels_it() -> None:
    async def scenario() -> None:
        wire, backend, service = Wire(), FakeBackend(num_permits=0), Service()
        before = asyncio.all_tasks()
        async with wire.session(backend, service) as task:
            wire.say(HELLO)
            await wire.heard()
            wire.picture(1.0)
            await backend.asked.wait()
            assert service.num_open == 1
            wire.leave()
            await task
        assert backend.num_cancelled == 1
        assert service.num_open == 0
        assert not wire.left_over()
        assert asyncio.all_tasks() == before

    in_loop(scenario())


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"live.idle_timeout_s=0"):
        replace(LIMITS, idle_timeout_s=0.0)
