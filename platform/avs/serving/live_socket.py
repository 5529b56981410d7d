"""The two ends of a live session's socket: a message in time, and a goodbye that says why."""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from avs.serving.messages import ApiError, error_json

__all__ = ["BUSY", "receive", "say_goodbye"]

BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
# How long a client that reads nothing can hold up the end of its session.
_GOODBYE_TIMEOUT_S = 5.0
_POLICY, _TOO_BIG, _INTERNAL, _TRY_AGAIN = 1008, 1009, 1011, 1013  # close codes of RFC 6455
_NO_CODE = 1005


async def receive(websocket: WebSocket, *, timeout_s: float, late: str) -> str | bytes:
    """The next message; ``late`` is what the client is told when none comes in time.

    Raises:
        WebSocketDisconnect: the client left.
        ApiError: nothing came within ``timeout_s``.
    """
    try:
        async with asyncio.timeout(timeout_s):
            message = await websocket.receive()
    except TimeoutError:
        raise ApiError(408, "timeout", late) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code") or _NO_CODE)
    text: str | None = message.get("text")
    data: bytes | None = message.get("bytes")
    return text if text is not None else data or b""


async def say_goodbye(websocket: WebSocket, error: ApiError) -> None:
    """Tell why and close, as far as the client still listens."""
    if websocket.application_state is not WebSocketState.CONNECTED:
        return
    event = {"event": "error", **error_json(error.code, error.message)}
    with contextlib.suppress(WebSocketDisconnect, TimeoutError):
        async with asyncio.timeout(_GOODBYE_TIMEOUT_S):
            await websocket.send_json(event)
            await websocket.close(_close_code(error.status), error.code)


def _close_code(status: int) -> int:
    """What an HTTP status is called when a WebSocket is closed."""
    if status in BUSY:
        return _TRY_AGAIN
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return _TOO_BIG
    return _INTERNAL if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _POLICY
