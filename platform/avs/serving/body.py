"""A request's body as it arrives: counted and timed before anything parses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive

from avs.serving.messages import ApiError

__all__ = ["Body", "too_large"]


class Body:
    """A ``receive`` that counts bytes and time; ``error`` is set when one of them ran out."""

    def __init__(self, receive: Receive, *, max_bytes: int, timeout_s: float) -> None:
        self._receive = receive
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._num_bytes = 0
        self._is_whole = False
        self._deadline_s = asyncio.get_running_loop().time() + timeout_s
        self.error: ApiError | None = None

    async def receive(self) -> Message:
        """The next message; raises ApiError past a limit."""
        if self._is_whole:
            return await self._receive()  # waits for the client to leave
        message = await self._in_time(self._receive)
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
        if self._num_bytes > self._max_bytes:
            self.error = too_large(self._max_bytes)
            raise self.error
        return message

    async def _in_time(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await receive()
        except TimeoutError:
            text = f"the upload took over {self._timeout_s:g} s"
            self.error = ApiError(408, "upload_timeout", text)
            raise self.error from None


def too_large(max_bytes: int) -> ApiError:
    """The answer to a body above the limit."""
    return ApiError(413, "too_large", f"the request is larger than {max_bytes} bytes")
