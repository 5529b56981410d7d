"""What is refused before a body is parsed: foreign pages, missing tokens, too many or too large
requests.

Pure ASGI, because Serve and Starlette bound no file upload and FastAPI parses the form before any
dependency runs: here a refused request costs no disk, no memory and no event-loop time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avs.serving import tokens
from avs.serving.body import Body, too_large
from avs.serving.doors import Doors
from avs.serving.messages import ApiError, error_response
from avs.serving.meters import Meters
from avs.serving.tokens import Gate

__all__ = ["Guard", "Limits", "Places", "too_busy"]

# Probes of load balancers and of Kubernetes carry no token and may use any name.
_PROBES = frozenset(("/healthz", "/readyz"))
# What a browser loads before anyone can type a token: it holds no secrets.
_PAGE = ("/", "/page/", "/favicon.ico")
# A person opens these: the browser's own log-in can carry the token.
_SHOWN = ("/docs", "/openapi.json", "/metrics")
_BATCHES = "/v1/batches"
_WITHOUT_BODY_BYTES = 100_000
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_SECURITY = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Of the body of a request."""

    max_body_bytes: int
    upload_timeout_s: float


class Places:
    """The open requests, worked on and waiting together; at the end no new ones are let in."""

    def __init__(self, max_open: int, *, meters: Meters) -> None:
        self._max_open, self._meters = max_open, meters
        self.is_closed = False
        self.num_open = 0

    def close(self) -> None:
        """Let nobody in any more."""
        self.is_closed = True

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold one; raises ApiError 429 where all are taken, 503 at the end."""
        if self.is_closed:
            raise ApiError(503, "stopping", "the service is stopping")
        if self.num_open >= self._max_open:
            raise too_busy()
        self.num_open += 1
        self._meters.open_requests(self.num_open)
        try:
            yield
        finally:
            self.num_open -= 1
            self._meters.open_requests(self.num_open)


class Guard:
    """ASGI middleware around everything."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        places: Places,
        gate: Gate,
        doors: Doors,
        meters: Meters,
    ) -> None:
        self._app, self._limits, self._gate, self._doors = app, limits, gate, doors
        self._places, self._meters = places, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 401, 403, 413, 429 or, while it arrives, 408."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        send = _with_headers(send, self._doors.cors(headers))
        try:
            if scope["type"] == "websocket":
                self._check_doors(scope, headers)  # the token comes in its first message
                with self._places.opened():
                    await self._app(scope, receive, send)
            elif scope["path"] in _PROBES:
                await self._app(scope, receive, send)
            elif _is_preflight(scope, headers):
                self._check_doors(scope, headers)
                await Response(status_code=204)(scope, receive, send)
            else:
                await self._pass(scope, receive, send, headers)
        except ApiError as error:
            if not error.is_counted:
                self._meters.rejected(error.code)
            await _refuse(error, scope, receive, send)

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[bytes, bytes]
    ) -> None:
        self._check_doors(scope, headers)
        path = scope["path"]
        if _is_page(path):
            await self._app(scope, receive, send)
            return
        token = self._gate.identify(headers.get(b"authorization", b""), with_basic=path in _SHOWN)
        wanted = _wanted_scope(path)
        if wanted is not None:
            self._gate.check_scope(token, wanted)
        if wanted is tokens.Scope.BATCH:  # each of them asks Ray and S3
            with self._gate.counted(token), self._places.opened():
                await self._forward(scope, receive, send, max_bytes=_WITHOUT_BODY_BYTES)
            return
        if scope["method"] in ("GET", "HEAD"):  # cheap: neither queued nor counted
            await self._forward(scope, receive, send, max_bytes=_WITHOUT_BODY_BYTES)
            return
        self._check_length(headers)
        with self._gate.counted(token), self._places.opened():
            await self._forward(scope, receive, send, max_bytes=self._limits.max_body_bytes)

    def _check_doors(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        self._doors.check_host(headers)
        path, method = scope["path"], scope.get("method", "CONNECT")
        is_shown = path in _SHOWN and path != "/metrics"
        self._doors.check_page(headers, method=method, is_page=_is_page(path) or is_shown)

    def _check_length(self, headers: Mapping[bytes, bytes]) -> None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise ApiError(400, "bad_request", "Content-Length is not a number")
        if int(length[:20]) > self._limits.max_body_bytes:
            raise too_large(self._limits.max_body_bytes)

    async def _forward(self, scope: Scope, receive: Receive, send: Send, *, max_bytes: int) -> None:
        """Count the body as it arrives; what the app makes of a refused one is dropped."""
        body = Body(receive, max_bytes=max_bytes, timeout_s=self._limits.upload_timeout_s)
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
            raise body.error


def too_busy() -> ApiError:
    """The answer when the queue is full."""
    return ApiError(429, "busy", "too many requests are waiting; try again")


def _wanted_scope(path: str) -> tokens.Scope | None:
    if path == "/metrics":
        return tokens.Scope.ADMIN
    if path == _BATCHES or path.startswith(f"{_BATCHES}/"):
        return tokens.Scope.BATCH
    return tokens.Scope.SEGMENT if path.startswith("/v1/") else None


def _is_page(path: str) -> bool:
    return path in _PAGE or path.startswith("/page/")


def _is_preflight(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    return scope["method"] == "OPTIONS" and b"access-control-request-method" in headers


def _with_headers(send: Send, extra: Mapping[str, str]) -> Send:
    """A ``send`` that adds the security headers to every answer."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_SECURITY)
            headers.update(extra)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return with_headers


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":  # before it is accepted: the server answers 403
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    response = error_response(error.status, error.code, error.message, error.headers)
    response.headers["Connection"] = "close"  # the rest of the body is not read
    await response(scope, receive, send)
