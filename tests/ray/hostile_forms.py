"""Forms and JSON that are not what POST /v1/segment takes, as bytes of HTTP."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

__all__ = ["FORM", "HOST", "POST", "bodies", "form", "forms", "part"]

HOST = b"Host: 127.0.0.1\r\n"
POST = b"POST /v1/segment HTTP/1.1\r\n" + HOST
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
_OPTIONS = {
    b"threshold": (b"NaN", b"1e999", b"-0", b"\xff", b"9" * 4000, b"0x1p-2", "\u0663".encode()),
    b"masks_per_s": (b"1e3", b"-1", b"9" * 4000, b"1_0", b"\0", "\u00b2".encode(), b""),
    b"max_duration_s": (b"inf", b"nan", b"0", b"1e-320", b"--1", b"1" + b"0" * 400),
    b"objects": (b"yes", b"2", b"\xed\xa0\x80", b""),
    b"model": (b"../x", b"\0", b"x" * 4000, b"Segmenter-default", b"__init__"),
    b"format": (b"\xff", b"RLE_JSON", b"png,npz", b"'; --"),
    b"a\0b": (b"",),
}


def _sent(body: bytes, headers: bytes, *, target: bytes = b"/v1/segment") -> bytes:
    head = b"POST " + target + b" HTTP/1.1\r\n" + HOST + headers
    return head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


def part(disposition: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = [b"Content-Disposition: form-data; " + disposition, *headers]
    return b"--b\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body + b"\r\n"


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return _sent(b"".join(parts) + end, FORM)


def forms(clip: bytes) -> Iterator[tuple[str, bytes]]:
    file = part(b'name="file"; filename="a.mp4"', clip)
    plain = part(b'name="format"', b"png")
    body = file + b"--b--\r\n"
    for kind in (
        *(b"", b"; boundary=", b"; boundary=c", b"; boundary=" + b"b" * 5000, b"; boundary=\xff"),
        *(b"; boundary=b; charset=utf-16", b"; boundary=b; charset=\xff", b'; boundary="b'),
        b"; boundary=b; charset=zlib_codec",
    ):
        head = b"Content-Type: multipart/form-data" + kind + b"\r\n"
        yield f"boundary {kind[:30]!r}", _sent(body, head)
    yield "nested", form(part(b'name="file"; filename="a"', body, FORM.strip()))
    yield "10,000 fields", form(*[plain] * 10_000)
    yield "10,000 files", form(*[part(b'name="file"; filename="a"', b"")] * 10_000)
    long = b"X: " + b"x" * 1_000_000
    yield "header of 1 MB", form(part(b'name="file"; filename="a"', b"", long))
    yield "10,000 headers", form(part(b'name="file"; filename="a"', b"", *[b"X: 1"] * 10_000))
    yield "no last boundary", form(file, end=b"")
    yield "two files", form(file, file)
    yield "elsewhere", form(part(b'name="video"; filename="a"', clip))
    yield "option as a file", form(file, part(b'name="format"; filename="a"', b"png"))
    yield "field of 1 MB", form(part(b'name="format"', b"x" * 1_000_000), file)
    yield "no name", form(part(b'filename="a"', clip))
    yield "no disposition", form(b"--b\r\nContent-Type: video/mp4\r\n\r\n" + clip + b"\r\n")
    for name in (
        *(b"../../../etc/passwd", b"a\0b", b"a\\..\\b", b"x" * 9000, b"\xff\xfe\xed\xa0\x80", b""),
        *(b"a\r\nX: y", b'a"; name="format', b"%0d%0aX-A: 1", "\u202e4pm".encode(), b"." * 300),
    ):
        yield f"name {name[:9]!r}", form(part(b'name="file"; filename="' + name + b'"', clip))
        target = b"/v1/segment?format=png"
        data = part(b'name="file"; filename="' + name + b'"', clip) + b"--b--\r\n"
        yield f"png of {name[:9]!r}", _sent(data, FORM, target=target)
    for option, values in _OPTIONS.items():
        for value in values:
            field = part(b'name="' + option + b'"', value)
            yield f"{option!r} {value[:9]!r}", form(file, field)
    extended = b"name=\"file\"; filename=a; filename*=UTF-16''%ff%fe; filename*0*=x"
    yield "extended name", form(part(extended, clip))


def bodies(clip: bytes) -> Iterator[tuple[str, bytes]]:
    url = '"url": "https://127.0.0.1/a"'
    odd = {
        "threshold": ("NaN", "1e999", "-0", "[0.5]", "9" * 4000, "{}"),
        "masks_per_s": ("[1]", "1.5", "true", '"\\ud800"', "1e400"),
        "format": ("[]", '["png"]', '"\\u0000"', "0", '{"a": {}}'),
        **dict.fromkeys(("\\ud800", "__class__", "x" * 9000, "model", "objects"), ("1",)),
    }
    texts = (
        *("", "[]", "null", "{", '"url"', "[" * 30_000, '{"url":' * 9000, "9" * 30_000, "\ufeff{}"),
        *('{"url": 1}', '{"url": "\\ud800"}', '{"url": "https://' + "a" * 60_000 + '"}'),
        *(f'{{{url}, "{name}": {v}}}' for name, values in odd.items() for v in values),
    )
    for text in texts:
        body = text.encode()
        yield f"json {text[:40]!r}", _sent(body, b"Content-Type: application/json\r\n")
    latin = '{"url": "https://é"}'.encode("utf-16")
    yield "utf-16", _sent(latin, b"Content-Type: application/json; charset=utf-16\r\n")
    bomb = gzip.compress(bytes(20_000_000))
    yield "gzip", _sent(bomb, b"Content-Type: application/json\r\nContent-Encoding: gzip\r\n")
    yield "gzip of a form", _sent(bomb, FORM + b"Content-Encoding: gzip\r\n")
    yield "bare clip", _sent(clip, b"Content-Type: video/mp4\r\n")
    yield "no type", _sent(clip, b"")
    pairs = b"Content-Type: application/x-www-form-urlencoded\r\n"
    for k, body in enumerate((b"file=a", b"a=1&" * 50_000, b"f" * 3_000_000, b"%ff=%00&%", clip)):
        yield f"pairs {k}", _sent(body, pairs)
