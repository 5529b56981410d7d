"""``WS /v1/live``: masks of a camera's newest picture while it runs, without Ray.

A live answer is worth only what it is about: so a session never queues. One task always drains the
socket into bounded memory; one works, at the backend or at sending, and takes the newest picture
when it is free. What came in between is dropped and counted, be it the backend that is slow or the
client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from avs.errors import ConfigError
from avs.serving.live_messages import (
    Hello,
    Picture,
    Sound,
    bad_message,
    parse_hello,
    parse_media,
)
from avs.serving.live_socket import BUSY, receive, say_goodbye
from avs.serving.live_state import Pace, PastFrames, SoundRing
from avs.serving.messages import (
    ApiError,
    LiveAnswer,
    LiveRequest,
    ModelInfo,
    Refusal,
    error_json,
)

__all__ = ["LiveBackend", "LiveLimits", "serve_live"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveLimits:
    """max_bytes_per_s: averaged over 2 s. hello_timeout_s: until the first message.
    idle_timeout_s: between two messages. max_session_s: from the first message."""

    max_message_bytes: int
    max_bytes_per_s: float
    hello_timeout_s: float
    idle_timeout_s: float
    max_session_s: float

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"live.{name}={getattr(self, name)} must be positive.")


class LiveBackend(Protocol):
    """What answers behind the session; may raise ApiError, which is taken for a Refusal."""

    async def live(self, request: LiveRequest) -> LiveAnswer | Refusal:
        """Segment one picture; cancelled when the client leaves."""


async def serve_live(
    websocket: WebSocket,
    *,
    backend: LiveBackend,
    limits: LiveLimits,
    authorise: Callable[[str | None], AbstractContextManager[None]],
    models: Callable[[str | None], Awaitable[ModelInfo]],
) -> None:
    """Accept, hold one session until either side ends it, and close. Raises only CancelledError.

    authorise: of the token that the first message gives, None = it gives none; raises ApiError or
    returns what is held while the session lasts. models: the model of that name, None = the
    service chooses; raises ApiError.
    """
    try:
        await websocket.accept()
    except OSError:
        return  # gone before it began
    try:
        hello = await _hello(websocket, limits)
        with authorise(hello.token):
            model = await models(hello.model)
            _check_objects(hello, model)
            session = _Session(websocket, backend=backend, limits=limits, hello=hello, model=model)
            await session.run()
    except WebSocketDisconnect:
        pass
    except ApiError as error:
        await say_goodbye(websocket, error)
    except Exception as error:
        _logger.error("live session failed", exc_info=error)
        told = "the session failed because of a defect in the service"
        await say_goodbye(websocket, ApiError(500, "internal", told))


async def _hello(websocket: WebSocket, limits: LiveLimits) -> Hello:
    timeout_s = limits.hello_timeout_s
    late = f"no first message came within {timeout_s:g} s"
    message = await receive(websocket, timeout_s=timeout_s, late=late)
    if not isinstance(message, str):
        raise bad_message("the first message must be text: JSON with token, model, threshold")
    return parse_hello(message)


def _check_objects(hello: Hello, model: ModelInfo) -> None:
    if hello.objects and not model.finds_objects:
        told = f"objects is true, but {model.name} finds no objects one by one: leave it out"
        raise ApiError(422, "invalid_field", told)


class _Session:
    """One client that may send; ``run`` is all of its life."""

    def __init__(
        self,
        websocket: WebSocket,
        *,
        backend: LiveBackend,
        limits: LiveLimits,
        hello: Hello,
        model: ModelInfo,
    ) -> None:
        self._websocket, self._backend, self._limits = websocket, backend, limits
        self._hello, self._model = hello, model
        self._sound = SoundRing(model.num_frames)
        self._past = PastFrames(num_frames=model.num_frames, image_size_px=model.image_size_px)
        self._newest_s = {Picture: 0.0, Sound: 0.0}
        self._waiting: tuple[Picture, float] | None = None  # with when it came
        self._came = asyncio.Event()
        self._num_dropped = 0

    async def run(self) -> None:
        """Until the reader or the worker ends, which is always by an exception; raises that."""
        # No TaskGroup: Python 3.11's leaves its caller counted as cancelled when a child fails,
        # and scopes of anyio around it then let the cancellation out.
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._work())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            errors = [task.exception() for task in tasks if not task.cancelled()]
        # The reader comes first: it knows that the client left when the worker only fails.
        raise next(filter(None, errors), RuntimeError("the work was cancelled from elsewhere"))

    async def _read(self) -> None:
        """Drain the socket, whatever the worker does."""
        limits, clock = self._limits, asyncio.get_running_loop().time
        pace = Pace(limits.max_bytes_per_s)
        end_s = clock() + limits.max_session_s
        idle = f"nothing came for {limits.idle_timeout_s:g} s"
        over = f"a session lasts {limits.max_session_s:g} s: connect again"
        while (left_s := end_s - clock()) > 0:
            timeout_s = min(left_s, limits.idle_timeout_s)
            late = idle if timeout_s < left_s else over
            message = await receive(self._websocket, timeout_s=timeout_s, late=late)
            if isinstance(message, str):
                raise bad_message("only the first message is text")
            if len(message) > limits.max_message_bytes:
                told = f"a message of {len(message)} bytes; {limits.max_message_bytes} are allowed"
                raise ApiError(413, "message_too_big", told)
            if not pace.allows(len(message), now_s=clock()):
                told = f"more than {limits.max_bytes_per_s:g} bytes a second"
                raise ApiError(400, "too_fast", told)
            self._take(parse_media(message))
            await asyncio.sleep(0)  # a full socket never blocks: the other sessions get a turn
        raise ApiError(408, "timeout", over)

    def _take(self, media: Picture | Sound) -> None:
        newest_s = self._newest_s[type(media)]
        if media.time_s < newest_s:
            kind = type(media).__name__.lower()
            raise bad_message(f"{kind} at {media.time_s:g} s came after {kind} at {newest_s:g} s")
        self._newest_s[type(media)] = media.time_s
        if isinstance(media, Sound):
            self._sound.write(media.time_s, media.samples)
            return
        self._num_dropped += self._waiting is not None
        self._waiting = (media, asyncio.get_running_loop().time())
        self._came.set()

    async def _work(self) -> None:
        """One picture after the other, each the newest when its turn comes."""
        model = self._model
        await self._send(
            "ready",
            model=model.name,
            checkpoint=model.checkpoint,
            classes=list(model.class_names),
            num_frames=model.num_frames,
        )
        while True:
            await self._came.wait()
            self._came.clear()
            assert self._waiting is not None
            (picture, came_s), self._waiting = self._waiting, None
            answer = await self._answer(picture)
            if isinstance(answer, Refusal):
                if answer.status in BUSY:
                    raise ApiError(answer.status, answer.code, answer.message)
                await self._send("error", **error_json(answer.code, answer.message))
                continue
            self._past.add(picture.time_s, answer.frame)
            took_s = asyncio.get_running_loop().time() - came_s
            await self._send(
                "mask",
                time_s=picture.time_s,
                height=answer.height_px,
                width=answer.width_px,
                **answer.mask,
                latency_ms=round(1000 * took_s, 1),
                dropped=self._num_dropped,
            )

    async def _answer(self, picture: Picture) -> LiveAnswer | Refusal:
        past = self._past.before(picture.time_s)
        request = LiveRequest(
            model=self._model.name,
            jpeg=picture.jpeg,
            past=past,
            samples=self._sound.read(picture.time_s, len(past) + 1),
            threshold=self._hello.threshold,
            objects=self._hello.objects,
        )
        try:
            return await self._backend.live(request)
        except ApiError as error:
            return Refusal(error.status, error.code, error.message)

    async def _send(self, event: str, **values: Any) -> None:
        await self._websocket.send_json({"event": event, **values})
