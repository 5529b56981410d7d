"""Malformed HTTP as bytes: what clients, proxies and attackers send that is no proper request."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import re
import socket
import struct
from collections.abc import Iterator

from hostile_forms import FORM, HOST, POST, bodies, form, forms, part

__all__ = ["bytes_in_headers_of_ray", "hostile_requests", "statuses", "talk"]

_AGREED = b"<then>"
_READY = b"GET /readyz HTTP/1.1\r\n"
_OF_RAY = (
    *(
        b"x-request-id",
        b"x-session-id",
        b"serve_multiplexed_model_id",
        b"x-request-timeout-seconds",
    ),
)
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


def talk(port: int, data: bytes, *, silence_s: float = 1.0) -> bytes:
    """Send, read until the server closes or is silent, and leave; behind the head of an upgrade
    the rest is sent when the server has agreed."""
    head, _, rest = data.partition(_AGREED)
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        # Refused half way, a request cannot be sent to its end.
        with contextlib.suppress(ConnectionError, TimeoutError):
            peer.sendall(head)
            if rest:
                got += peer.recv(65536)
                peer.sendall(rest)
        peer.settimeout(silence_s)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while part := peer.recv(65536):
                got += part
    return got


def statuses(answer: bytes) -> list[int]:
    """Of all answers on a connection."""
    return [int(text) for text in _STATUS.findall(answer)]


def hostile_requests(num_requests: int, clip: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and bytes; those of the tables first, then proper requests with random damage."""
    fixed = [*_lines(), *_lengths(clip), *forms(clip), *bodies(clip), *_paths(), *_sockets()]
    yield from fixed
    for number in range(num_requests - len(fixed)):
        rng = random.Random(f"request {number}")
        yield f"damaged {number}", _damaged(rng, clip)


def _lines() -> Iterator[tuple[str, bytes]]:
    for line in (
        b"|\r\n\r\n|\0\0\0|GET|GET /|GET / HTTP/9.9|get / http/1.1|GET  / HTTP/1.1|"
        b"GET / HTTP/1.1\r\n: x|"
        b"PRI * HTTP/2.0\r\n\r\nSM|\x16\x03\x01\x02\0\x01\0|FROB /v1/segment HTTP/1.1|"
        b"CONNECT a:1 HTTP/1.1|TRACE / HTTP/1.1|GET http://127.0.0.1/ HTTP/1.1|OPTIONS * HTTP/1.1|"
        b"GET /\xff\xfe HTTP/1.1|GET /?\xff=\xff HTTP/1.1|GET /%ff%00 HTTP/1.1|PUT / HTTP/1.1|"
        b"DELETE /v1/segment HTTP/1.1|HEAD /v1/segment HTTP/1.1|GET /v1/segment HTTP/1.1"
    ).split(b"|"):
        yield f"line {line!r}", line + b"\r\n" + HOST + b"Connection: close\r\n\r\n"
    ready = _READY + HOST
    yield "long header", ready + b"X-A: " + b"x" * 200_000 + b"\r\n\r\n"
    yield "many headers", ready + b"X-A: 1\r\n" * 20_000 + b"\r\n"
    yield "no end of headers", ready + b"X-A"
    yield "folded header", ready + b"X-A: 1\r\n 2\r\n\r\n"
    yield "bare line feeds", b"GET /readyz HTTP/1.1\nHost: 127.0.0.1\n\n"
    for name in _OF_RAY:
        for value in (b"../" * 900, b"{}\t'", b"-1", b"nan", b"1e999"):
            yield f"{name!r} {value[:6]!r}", ready + name + b": " + value + b"\r\n\r\n"
    for double in (b"Host: a", b"Authorization: Bearer x\r\nAuthorization: Basic =", FORM.strip()):
        yield f"double {double[:9]!r}", POST + double + b"\r\n" + FORM + b"\r\n"


def bytes_in_headers_of_ray() -> Iterator[tuple[str, bytes]]:
    """Headers that Ray's own proxy reads, with what is no UTF-8."""
    for name in _OF_RAY:
        yield name.decode(), _READY + HOST + name + b": \xff\xfe\r\n\r\n"


def _lengths(clip: bytes) -> Iterator[tuple[str, bytes]]:
    for value in (
        *(b"-1", b"+5", b"0x10", b"1e3", b"5, 6", b"\xb2", b"", b"9" * 30, b"9" * 5000),
        *(b"134217729", b"18446744073709551617"),
    ):
        length = b"Content-Length: " + value + b"\r\n\r\n"
        yield f"length {value[:9]!r}", POST + FORM + length + b"--b--"
    two = b"Content-Length: 5\r\nContent-Length: 50\r\n\r\n"
    yield "two lengths", POST + FORM + two + b"--b--"
    chunked = b"Transfer-Encoding: chunked\r\n"
    inner = b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n"
    for te in (chunked, b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding : chunked\r\n"):
        for body in (b"0\r\n\r\n" + inner, b"5\r\n--b--\r\n0\r\n\r\n" + inner):
            yield f"both {te!r}", POST + FORM + te + b"Content-Length: 6\r\n\r\n" + body
    for size in (b"ffffffffffffffffff", b"-1", b"zz", b"5;" + b"x" * 100_000, b"\r\n\r\n"):
        yield f"chunk {size[:9]!r}", POST + FORM + chunked + b"\r\n" + size + b"\r\n--b--\r\n"
    whole = form(part(b'name="file"; filename="a"', clip))
    for end in (10, 150, 200, len(whole) // 2, len(whole) - 1):
        yield f"half sent {end}", whole[:end]
    expect = b"Expect: 100-continue\r\nContent-Length: 99\r\n\r\n"
    yield "waits for 100", POST + FORM + expect
    yield "expects more", POST + FORM + expect.replace(b"100-continue", b"200-ok")


def _paths() -> Iterator[tuple[str, bytes]]:
    up = b"../ ..%2f %2e%2e/ ..\\ ..%5c %252e%252e%252f ....// %c0%ae/".split()
    targets = [b"/page/" + step * 8 + b"etc/passwd" for step in up]
    targets += [b"/page/", b"/page//etc/passwd", b"/page/app.js%00", b"//page/..", b"/-/routes/.."]
    targets += [b"/" + b"a" * 60_000, b"/v1/models?" + b"a=1&" * 15_000, b"/?" + b"%" * 10_000]
    targets += [b"/v1/segment?format=" + b"%00" * 99, b"/docs?url=http://127.0.0.1:1/x"]
    for target in targets:
        line = b"GET " + target + b" HTTP/1.1\r\n"
        yield f"path {target[:30]!r}", line + HOST + b"Connection: close\r\n\r\n"


def _frame(first: int, payload: bytes, *, length: int | None = None, mask: int = 0x80) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">BBQ", first, mask | 127, size) + bytes(4 if mask else 0) + payload


def _sockets() -> Iterator[tuple[str, bytes]]:
    key = base64.b64encode(bytes(16))
    upgrade = (
        b"GET /v1/live HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    hello = _frame(0x81, b"{}")
    picture = struct.pack("<Bd", 1, 1.0) + b"\xff\xd8\xff" + bytes(500)
    texts = (b"", b"[]", b"{", b'{"a": 1}', b'{"threshold": NaN}', b'{"model": "\\ud800"}')
    texts += (json.dumps({"token": "x" * 9000}).encode(), b"[" * 4000, b'{"threshold": 1e999}')
    frames = {
        "junk": random.Random("frames").randbytes(3000),
        "no mask": _frame(0x81, b"{}", mask=0),
        "oversize": _frame(0x82, b"x" * 100, length=1 << 40),
        "negative size": _frame(0x82, b"x" * 100, length=1 << 63),
        "big message": hello + _frame(0x82, bytes(3_000_000)),
        "no text": _frame(0x81, b"\xff\xfe"),
        "binary first": _frame(0x82, picture),
        "two texts": hello + hello,
        "no picture": hello + _frame(0x82, picture) + _frame(0x82, picture),
        "odd sound": hello + _frame(0x82, struct.pack("<Bd", 2, 1.0) + b"x"),
        "no time": hello + _frame(0x82, struct.pack("<Bd", 1, float("nan")) + b"\xff\xd8\xff"),
        "far times": hello
        + b"".join(_frame(0x82, struct.pack("<Bd", 2, t) + bytes(64)) for t in (0, 1e9, 1e10)),
        "big ping": hello + _frame(0x89, bytes(500)),
        "fragments": hello + _frame(0x02, b"\1" * 10) * 50,
        "compressed": hello + _frame(0xC2, b"\xff" * 50),
        "bad close": _frame(0x88, struct.pack(">H", 9)),
        **{f"hello {k}": _frame(0x81, text) for k, text in enumerate(texts)},
    }
    for name, data in frames.items():
        yield f"socket {name}", upgrade + _AGREED + data
    yield "socket elsewhere", upgrade.replace(b"/v1/live", b"/v1/segment") + hello
    yield "socket without key", upgrade.replace(b"Sec-WebSocket-Key", b"X")
    yield "socket of old", upgrade.replace(b"Version: 13", b"Version: 7")


def _damaged(rng: random.Random, clip: bytes) -> bytes:
    whole = bytearray(form(part(b'name="file"; filename="a.mp4"', clip), part(b'name="a"', b"b")))
    near = rng.random() < 0.5
    for _ in range(rng.choice([1, 3, 30])):
        start = rng.randrange(300 if near else len(whole))
        new = rng.choice([b"", b"\r\n", b"\0", b"\xff", rng.randbytes(3), b"--b", b":"])
        whole[start : start + rng.choice([0, 1, 5])] = new
    return bytes(whole)
