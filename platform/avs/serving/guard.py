"""What is refused before a body is parsed: missing tokens, too many requests, too large bodies.

Pure ASGI, because Serve and Starlette bound no file upload and FastAPI parses the form before any
dependency runs: here a refused request costs no disk, no memory and no event-loop time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avs.serving.messages import ApiError, error_response
from avs.serving.tokens import is_token_known

__all__ = ["OPEN_PATHS", "RETRY_AFTER_S", "Guard", "Limits"]

# Probes of load balancers and of Kubernetes carry no token.
OPEN_PATHS = frozenset(("/healthz", "/readyz"))
RETRY_AFTER_S = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """``max_open_requests``: worked on and waiting together. No ``token_digests`` = no tokens."""

    max_body_bytes: int
    max_open_requests: int
    upload_timeout_s: float
    request_timeout_s: float
    token_digests: tuple[bytes, ...]


class Guard:
    """ASGI middleware around everything but the probes."""

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 401, 413, 429 or, while it arrives, 408."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            await _answer(error, scope, receive, send)
            return
        self._num_open += 1
        try:
            await self._forward(scope, receive, send)
        finally:
            self._num_open -= 1

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        limits = self._limits
        authorization = headers.get(b"authorization", b"")
        if limits.token_digests and not is_token_known(authorization, limits.token_digests):
            raise ApiError(
                401,
                "unauthorized",
                "give a known token as 'Authorization: Bearer TOKEN'",
                {"WWW-Authenticate": "Bearer"},
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise ApiError(400, "bad_request", "Content-Length is not a number")
        if int(length) > limits.max_body_bytes:
            raise _too_large(limits)
        if self._num_open >= limits.max_open_requests:
            raise too_busy()

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body as it arrives; what the app makes of a refused one is dropped."""
        body = _Body(receive, self._limits)
        has_started = False

        async def guarded_send(message: Message) -> None:
            nonlocal has_started
            if body.error is None or has_started:
                has_started = True
                await send(message)

        try:
            await self._app(scope, body.receive, guarded_send)
        except ApiError as error:
            if error is not body.error:
                raise
        if body.error is not None and not has_started:
            await _answer(body.error, scope, receive, send)


class _Body:
    """A ``receive`` that counts bytes and time; ``error`` is set when one of them ran out."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._num_bytes = 0
        self._is_whole = False
        self._deadline_s = asyncio.get_running_loop().time() + limits.upload_timeout_s
        self.error: ApiError | None = None

    async def receive(self) -> Message:
        """The next message; raises ApiError past a limit."""
        if self._is_whole:
            return await self._receive()  # waits for the client to leave
        message = await self._in_time(self._receive)
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
        if self._num_bytes > self._limits.max_body_bytes:
            self.error = _too_large(self._limits)
            raise self.error
        return message

    async def _in_time(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await receive()
        except TimeoutError:
            seconds = self._limits.upload_timeout_s
            self.error = ApiError(408, "upload_timeout", f"the upload took over {seconds:g} s")
            raise self.error from None


def too_busy() -> ApiError:
    """The answer when the queue is full."""
    return ApiError(
        429, "busy", "too many requests are waiting; try again", {"Retry-After": f"{RETRY_AFTER_S}"}
    )


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, "too_large", f"the request is larger than {limits.max_body_bytes} bytes")


async def _answer(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response(error.status, error.code, error.message, error.headers)
    response.headers["Connection"] = "close"  # the rest of the body is not read
    await response(scope, receive, send)
