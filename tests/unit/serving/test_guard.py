"""What is refused before a body is parsed: too large, too slow, too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from bare_asgi import FORM, HEAD, Call, in_loop
from fastapi import FastAPI
from made_up_service import BASE_URL, HASH, CountingMeters, FakeBackend, client_of, code_of

from avs.serving.messages import Head

AppFactory = Callable[..., FastAPI]
SEGMENT = "/v1/segment"
FILE = {"file": ("clip.mp4", b"video bytes")}


def test_a_declared_size_is_refused_unread(make_app: AppFactory, backend: FakeBackend) -> None:
    length = (b"content-length", b"2000")
    call = Call(make_app(limits={"max_body_bytes": 1000}), b"x", headers=(FORM, length))
    in_loop(call.run())
    assert (call.status, call.json()["error"]["code"]) == (413, "too_large")
    assert "1000 bytes" in call.json()["error"]["message"]
    assert call.headers["connection"] == "close"
    assert call.num_read == 0
    assert not backend.asked


@pytest.mark.parametrize("length", ["", "-1", "ten", "1e3", "9" * 5000, "²"])
def test_an_odd_size_is_refused(make_app: AppFactory, backend: FakeBackend, length: str) -> None:
    header = (b"content-length", length.encode("latin-1"))
    call = Call(make_app(), b"x", headers=(FORM, header))
    in_loop(call.run())
    assert call.status in (400, 413)
    assert call.num_read == 0


def test_a_body_without_a_size_is_counted(make_app: AppFactory, backend: FakeBackend) -> None:
    call = Call(make_app(limits={"max_body_bytes": 1000}), HEAD, *[b"x" * 100] * 50)
    in_loop(call.run())
    assert (call.status, call.json()["error"]["code"]) == (413, "too_large")
    assert call.num_read < 15
    assert [message["type"] for message in call.sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert not backend.asked


def test_a_body_at_the_limit_passes(make_app: AppFactory, backend: FakeBackend) -> None:
    size = len(httpx.Request("POST", "http://x", files=FILE).read())
    client = client_of(make_app(limits={"max_body_bytes": size}))
    assert client.post(SEGMENT, files=FILE).status_code == 200
    client = client_of(make_app(limits={"max_body_bytes": size - 1}))
    assert code_of(client.post(SEGMENT, files=FILE)) == (413, "too_large")
    assert len(backend.asked) == 1


def test_json_and_bodies_of_get_are_counted_too(make_app: AppFactory) -> None:
    client = client_of(make_app(limits={"max_body_bytes": 1000}))

    def chunks() -> Iterator[bytes]:
        yield from [b"[" * 100] * 50

    kind = {"Content-Type": "application/json"}
    assert code_of(client.post(SEGMENT, content=chunks(), headers=kind)) == (413, "too_large")
    assert client.request("GET", "/v1/models", content=b"x" * 2000).status_code == 200


def test_a_slow_upload_is_a_408(make_app: AppFactory, backend: FakeBackend) -> None:
    app = make_app(limits={"upload_timeout_s": 0.2})
    call = Call(app, HEAD, *[b"x"] * 20, pause_s=0.05)
    in_loop(call.run())
    assert (call.status, call.json()["error"]["code"]) == (408, "upload_timeout")
    assert call.num_read < 10
    assert len(call.sent) == 2
    assert not backend.asked


def test_an_upload_that_stands_still_is_a_408(make_app: AppFactory) -> None:
    call = Call(make_app(limits={"upload_timeout_s": 0.1}), HEAD, b"never", pause_s=60.0)
    in_loop(call.run())
    assert call.status == 408


def test_a_slow_answer_is_no_slow_upload(make_app: AppFactory, backend: FakeBackend) -> None:
    backend.parts = (0.3, Head(HASH, 2), b"{}")
    client = client_of(make_app(limits={"upload_timeout_s": 0.1}))
    assert client.post(SEGMENT, files=FILE).status_code == 200


def test_a_full_queue_is_a_429_with_retry_after(make_app: AppFactory, backend: FakeBackend) -> None:
    backend.parts = (0.5, Head(HASH, 2), b"{}")
    meters = CountingMeters()

    async def burst() -> list[httpx.Response]:
        transport = httpx.ASGITransport(make_app(max_open_requests=2, meters=meters))
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
            posts = [client.post(SEGMENT, files=FILE) for _ in range(5)]
            looks = [client.get(path) for path in ("/healthz", "/", "/v1/models")]
            answers = await asyncio.gather(*posts, *looks)
            return [*answers, await client.post(SEGMENT, files=FILE)]

    answers = asyncio.run(burst())
    posts = answers[:5]
    assert sorted(r.status_code for r in posts) == [200, 200, 429, 429, 429]
    assert all(int(r.headers["retry-after"]) > 0 for r in posts if r.status_code == 429)
    assert [r.status_code for r in answers[5:]] == [200] * 4
    assert len(backend.asked) == 3
    assert meters.rejections == ["busy"] * 3
    assert (max(meters.open), meters.open[-1]) == (2, 0)


def test_an_upload_that_breaks_off_frees_its_place(
    make_app: AppFactory, backend: FakeBackend
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"--b\r\n"
        raise ConnectionError("gone")

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(max_open_requests=1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            await client.post(SEGMENT, content=broken(), headers=headers)
            return await client.post(SEGMENT, files=FILE)

    assert asyncio.run(post()).status_code == 200
    assert len(backend.asked) == 1
