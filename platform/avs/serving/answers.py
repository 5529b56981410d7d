"""An answer that is sent as its parts come, and whose work stops when the client leaves.

A file is announced with its length and a stream ends with an event, so what was cut off on the way
cannot be taken for whole.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, suppress
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from avs.serving.messages import (
    ANSWERS,
    STREAM,
    ApiError,
    Head,
    Options,
    Part,
    Refusal,
    error_json,
    error_response,
)

__all__ = ["PartsResponse", "answer_headers"]


class PartsResponse(Response):
    """Sends ``parts`` of one answer; ``cleanup`` is closed behind the last one.

    ``told`` gets the status when it is known. ``deadline_s``: on the clock of the event loop.
    """

    def __init__(
        self,
        parts: AsyncGenerator[Part, None],
        *,
        name: str,
        options: Options,
        timeout_s: float,
        cleanup: AsyncExitStack,
        told: Callable[[int, str], None],
    ) -> None:
        super().__init__()
        self._parts, self._name, self._options = parts, name, options
        self._timeout_s, self._cleanup, self._told = timeout_s, cleanup, told
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all, or stop everything as soon as the client leaves."""
        work = asyncio.ensure_future(self._answer(scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            try:
                for task in (work, leaving):
                    task.cancel()
                await asyncio.gather(work, leaving, return_exceptions=True)
                with suppress(Exception):  # of a source that was stopped in the middle
                    await self._parts.aclose()
            finally:  # also when this is cancelled once more
                await self._cleanup.aclose()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        error: ApiError
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send_parts(send)
            return
        except TimeoutError:
            text = f"{self._name} was not done within {self._timeout_s:g} s"
            error = ApiError(504, "timeout", text)
        except ApiError as refused:
            error = refused
        except Exception:
            self._told(500, "internal")
            raise
        self._told(error.status, error.code)
        if not self._has_started:
            response = error_response(error.status, error.code, error.message, error.headers)
            await response(scope, receive, send)
        elif self._options.format == STREAM:
            event = {"event": "error", **error_json(error.code, error.message)}
            await _send_body(send, json.dumps(event).encode() + b"\n", more=False)
        else:
            raise error  # breaks the connection, so that the file is not taken for whole

    async def _send_parts(self, send: Send) -> None:
        async for part in self._parts:
            if isinstance(part, Refusal):
                raise ApiError(part.status, part.code, part.message)
            if isinstance(part, Head):
                await self._start(part, send)
            else:
                await _send_body(send, part, more=True)
        await _send_body(send, b"", more=False)
        self._told(200, "")

    async def _start(self, head: Head, send: Send) -> None:
        headers = answer_headers(self._options, self._name)
        headers["X-AVS-Checkpoint"] = head.checkpoint
        if head.num_bytes is not None:
            headers["Content-Length"] = str(head.num_bytes)
        self._has_started = True
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def answer_headers(options: Options, name: str) -> dict[str, str]:
    """Headers of a 200: type, name of the download, model. ``name``: as the client calls it."""
    answer = ANSWERS[options.format]
    headers = {"Content-Type": answer.media_type, "X-AVS-Model": options.model}
    if answer.suffix:
        stem = name.rsplit(".", 1)[0] or "file"
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", stem)
        headers["Content-Disposition"] = (
            f'attachment; filename="{plain}{answer.suffix}"; '
            f"filename*=UTF-8''{quote(stem, safe='')}{answer.suffix}"
        )
    return headers
