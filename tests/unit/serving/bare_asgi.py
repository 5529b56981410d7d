"""Requests by bare ASGI: a client that is slow, leaves, or says half of what it announced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from starlette.types import Message, Receive, Send

FORM = (b"content-type", b"multipart/form-data; boundary=b")
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="clip.mp4"\r\n\r\n'
END = b"\r\n--b--\r\n"
_DEADLINE_S = 30.0  # of a whole test: one that waits in vain ends


def in_loop(scenario: Coroutine[Any, Any, None]) -> None:
    """Run an asynchronous test."""
    asyncio.run(asyncio.wait_for(scenario, _DEADLINE_S))


async def until(holds: Callable[[], Any]) -> None:
    """Wait for something that other tasks bring about."""
    while not holds():
        await asyncio.sleep(0.005)


class Call:
    """A request by bare ASGI whose client sends ``body`` part by part and leaves when told to.

    pause_s: before each part. sent: what came back.
    """

    def __init__(
        self,
        app: Any,
        *body: bytes,
        path: str = "/v1/segment",
        query: str = "",
        method: str = "POST",
        headers: Sequence[tuple[bytes, bytes]] = (FORM,),
        pause_s: float = 0.0,
    ) -> None:
        self._app, self._body, self._pause_s = app, list(body), pause_s
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(b"host", b"127.0.0.1:8000"), *headers],
        }
        self.leaves = asyncio.Event()
        self.sent: list[Message] = []
        self.num_read = 0

    async def run(self) -> None:
        """Returns, or raises, what the app does."""
        receive: Receive = self._receive
        send: Send = self._send
        await self._app(self.scope, receive, send)

    async def _receive(self) -> Message:
        if not self._body:
            await self.leaves.wait()
            return {"type": "http.disconnect"}
        await asyncio.sleep(self._pause_s)
        self.num_read += 1
        part = self._body.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self._body)}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        """Of the answer."""
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def content(self) -> bytes:
        """What came of the answer's body."""
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its end."""
        return bool(self.sent) and not self.sent[-1].get("more_body", False)

    def json(self) -> Any:
        """The body."""
        return json.loads(self.content)
