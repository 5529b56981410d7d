"""Both ends of a live session in one event loop: the client's wire, and a backend that is told."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
from starlette.types import Message
from starlette.websockets import WebSocket

from avs.serving.live import LiveLimits, serve_live
from avs.serving.messages import ApiError, LiveAnswer, LiveRequest, ModelInfo, Refusal

__all__ = ["HELLO", "LIMITS", "SIDE_PX", "TOKEN", "FakeBackend", "Service", "Wire", "in_loop"]

TOKEN = "t0ken"
HELLO = json.dumps({"token": TOKEN})
SIDE_PX = 4
_DEADLINE_S = 30.0  # of a whole test: one that waits in vain ends
LIMITS = LiveLimits(
    max_message_bytes=100_000,
    max_bytes_per_s=1e9,
    hello_timeout_s=_DEADLINE_S,
    idle_timeout_s=_DEADLINE_S,
    max_session_s=_DEADLINE_S,
)


def in_loop(scenario: Coroutine[Any, Any, None]) -> None:
    """Run an asynchronous test."""
    asyncio.run(asyncio.wait_for(scenario, _DEADLINE_S))


class FakeBackend:
    """Answers one mask for each permit; the frame holds the last byte of the picture."""

    def __init__(self, *, num_permits: int = 1000) -> None:
        self.permits = asyncio.Semaphore(num_permits)
        self.requests: list[LiveRequest] = []
        self.asked = asyncio.Event()
        self.answer: LiveAnswer | Refusal | BaseException | None = None
        self.num_cancelled = 0

    async def live(self, request: LiveRequest) -> LiveAnswer | Refusal:
        self.requests.append(request)
        self.asked.set()
        try:
            await self.permits.acquire()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if isinstance(self.answer, BaseException):
            raise self.answer
        frame = np.full((SIDE_PX, SIDE_PX, 3), request.jpeg[-1], np.uint8)
        return self.answer or LiveAnswer(
            frame=frame, mask={"objects": []}, height_px=48, width_px=64
        )


class Service:
    """Who may come and what is served; counts the sessions that are held."""

    num_open = 0
    finds_objects = True

    @contextmanager
    def _held(self) -> Iterator[None]:
        self.num_open += 1
        try:
            yield
        finally:
            self.num_open -= 1

    def authorise(self, token: str | None) -> Any:
        if token != TOKEN:
            raise ApiError(401, "unauthorized", "give a known token")
        return self._held()

    async def model(self, name: str | None) -> ModelInfo:
        if name not in (None, "small"):
            raise ApiError(422, "unknown_model", "no such model")
        return ModelInfo(
            name="small",
            is_default=True,
            share=1.0,
            checkpoint="abc",
            network="avsc",
            num_frames=4,
            image_size_px=SIDE_PX,
            class_names=("background", "sounding"),
            finds_objects=self.finds_objects,
            metrics={},
            card="",
        )


class Wire:
    """What an ASGI server does, and what the client sees."""

    def __init__(self) -> None:
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue()
        self._drained = asyncio.Event()
        self.flows = asyncio.Event()
        self.flows.set()
        self.blocked = asyncio.Event()

    async def receive(self) -> Message:
        if self._incoming.empty():
            self._drained.set()
        return await self._incoming.get()

    async def send(self, message: Message) -> None:
        if not self.flows.is_set():
            self.blocked.set()
            await self.flows.wait()
        self._outgoing.put_nowait(message)

    def say(self, message: str | bytes) -> None:
        key = "text" if isinstance(message, str) else "bytes"
        self._drained.clear()
        self._incoming.put_nowait({"type": "websocket.receive", key: message})

    def picture(self, time_s: float, number: int = 0) -> None:
        self.say(struct.pack("<Bd", 1, time_s) + b"\xff\xd8\xff" + bytes([number]))

    def sound(self, time_s: float, samples: np.ndarray) -> None:
        self.say(struct.pack("<Bd", 2, time_s) + samples.astype("<i2").tobytes())

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def taken(self) -> None:
        """Until all that was said is handled."""
        await self._drained.wait()

    async def heard(self) -> Any:
        """The next event, or the close code."""
        message = await self._outgoing.get()
        if message["type"] == "websocket.accept":
            return await self.heard()
        if message["type"] == "websocket.close":
            return message["code"]
        return json.loads(message["text"])

    def left_over(self) -> list[Message]:
        """What was sent and not heard."""
        return [self._outgoing.get_nowait() for _ in range(self._outgoing.qsize())]

    @asynccontextmanager
    async def session(
        self, backend: FakeBackend, service: Service | None = None, **changes: float
    ) -> AsyncIterator[asyncio.Task[None]]:
        """``serve_live`` as a task; keywords change the limits."""
        service = service or Service()
        scope = {"type": "websocket", "path": "/v1/live", "headers": []}
        serving = serve_live(
            WebSocket(scope, self.receive, self.send),
            backend=backend,
            limits=replace(LIMITS, **changes),  # type: ignore[arg-type]
            authorise=service.authorise,
            models=service.model,
        )
        task = asyncio.create_task(serving)
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
