"""An HTTP server in front of an S3 that fails or is slow on demand, as busy storage often is."""

from __future__ import annotations

import enum
import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>told to</Message></Error>"
_OF_ONE_HOP = {"Connection", "Transfer-Encoding", "Date", "Server"}


class Failure(enum.Enum):
    """What happens to one request instead of its answer."""

    SLOW_DOWN = "503"
    INTERNAL = "500"
    RESET = "reset"
    CUT_BODY = "cut"
    STALLED_BODY = "stalled"
    LOST_ANSWER = "lost"  # the request takes effect, its answer does not come
    DENIED = "403"


class FlakyS3:
    """Fails the next requests of a method as told, or all while ``is_away``; counts what came.

    While ``outage`` is set all requests fail in that way; each waits ``delay_s`` first.
    """

    def __init__(self, target: str) -> None:
        self.target = target.removeprefix("http://")
        self.address = ""
        self.released = threading.Event()
        self.is_away = False
        self.outage: Failure | None = None
        self.delay_s = 0.0
        self.requests: list[str] = []
        self._method = ""
        self._failures: list[Failure] = []
        self._lock = threading.Lock()

    def fail(self, method: str, *failures: Failure) -> None:
        """The next requests of ``method`` fail one by one in these ways."""
        with self._lock:
            self._method, self._failures = method, list(failures)
            self.requests.clear()

    def next_failure(self, method: str) -> Failure | None:
        with self._lock:
            self.requests.append(method)
            if self.is_away:
                return Failure.RESET
            if self.outage is not None:
                return self.outage
            return self._failures.pop(0) if method == self._method and self._failures else None


@contextmanager
def flaky_s3(target: str, *, host: str = "127.0.0.1") -> Iterator[FlakyS3]:
    """Serve until the block ends, at an address of ``host``."""
    proxy = FlakyS3(target)
    server = ThreadingHTTPServer((host, 0), _handler(proxy))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy.address = f"http://{host}:{server.server_port}"
    try:
        yield proxy
    finally:
        proxy.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(proxy: FlakyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self._read_body()
            failure = proxy.next_failure(self.command)
            if proxy.delay_s:
                time.sleep(proxy.delay_s)
            if failure is Failure.RESET:
                self._reset()
            elif failure in (Failure.SLOW_DOWN, Failure.INTERNAL, Failure.DENIED):
                code = {"503": b"SlowDown", "500": b"InternalError", "403": b"AccessDenied"}
                self._answer(int(failure.value), {}, _ERROR % code[failure.value])
            else:
                self._forward(body, failure)

        def _read_body(self) -> bytes:
            """All of it, as one piece where pyarrow's client sends it in many."""
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            del self.headers["Transfer-Encoding"], self.headers["Expect"]
            pieces = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
            return b"".join(pieces)

        def _forward(self, body: bytes, failure: Failure | None) -> None:
            upstream = http.client.HTTPConnection(proxy.target)
            upstream.request(self.command, self.path, body, dict(self.headers))
            response = upstream.getresponse()
            data = response.read()
            upstream.close()
            headers = dict(response.getheaders())
            length = int(headers.pop("Content-Length", len(data)))
            for name in _OF_ONE_HOP & headers.keys():
                del headers[name]
            if failure is Failure.LOST_ANSWER:
                self._reset()
            else:
                self._answer(response.status, headers, data, failure, length)

        def _answer(
            self,
            status: int,
            headers: dict[str, str],
            data: bytes,
            failure: Failure | None = None,
            length: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) if length is None else length))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(data if failure is None else data[: len(data) // 2])
            self.wfile.flush()
            if failure is Failure.STALLED_BODY:
                proxy.released.wait()
            if failure is not None:
                self._reset()

        def _reset(self) -> None:
            """Close so that the other side sees a reset, not an end."""
            self.close_connection = True
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    for method in ("GET", "PUT", "HEAD", "DELETE", "POST"):
        setattr(Handler, f"do_{method}", Handler._serve)
    return Handler
