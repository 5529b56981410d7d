"""What is refused before a body is parsed, and time limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

VIDEO = ("clip.mp4", b"video bytes")
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


def _code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_a_declared_size_is_refused_unread(make_app: Any, backend: Any) -> None:
    client = TestClient(make_app(max_body_bytes=1000))
    response = client.post("/v1/segment", files={"file": ("a.mp4", b"x" * 2000)})
    assert _code(response) == (413, "too_large")
    assert "1000 bytes" in response.json()["error"]["message"]
    assert not backend.calls


def test_a_declared_size_costs_no_read(make_app: Any) -> None:
    num_read, sent = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal num_read
        num_read += 1
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-length", b"2000"), (b"content-type", b"multipart/form-data; boundary=b")]
    scope = {"type": "http", "method": "POST", "path": "/v1/segment", "query_string": b""}
    asyncio.run(make_app(max_body_bytes=1000)({**scope, "headers": headers}, receive, send))
    assert sent[0]["status"] == 413
    assert num_read == 0


def test_a_body_without_a_size_is_counted(make_app: Any, backend: Any) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (HEAD, *[b"x" * 100] * 50)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    client = TestClient(make_app(max_body_bytes=1000), raise_server_exceptions=False)
    response = client.post("/v1/segment", content=chunks(), headers=headers)
    assert _code(response) == (413, "too_large")
    assert not backend.calls


def test_a_body_at_the_limit_passes(make_app: Any, backend: Any) -> None:
    size = len(httpx.Request("POST", "http://x", files={"file": VIDEO}).read())
    client = TestClient(make_app(max_body_bytes=size))
    assert client.post("/v1/segment", files={"file": VIDEO}).status_code == 200
    client = TestClient(make_app(max_body_bytes=size - 1))
    assert _code(client.post("/v1/segment", files={"file": VIDEO})) == (413, "too_large")
    assert len(backend.calls) == 1


def test_without_the_token_nothing_but_the_probes(make_app: Any, backend: Any) -> None:
    client = TestClient(make_app(tokens=("first", "second")))
    for value in ("", "Bearer", "Bearer wrong", "first", "Basic first", "Bearer first,second"):
        headers = {"Authorization": value} if value else {}
        response = client.post("/v1/segment", files={"file": VIDEO}, headers=headers)
        assert _code(response) == (401, "unauthorized"), value
        assert response.headers["www-authenticate"] == "Bearer"
    assert _code(client.get("/openapi.json")) == (401, "unauthorized")
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert not backend.calls


@pytest.mark.parametrize("value", ["Bearer first", "Bearer second", "bearer second"])
def test_every_token_opens(make_app: Any, value: str) -> None:
    client = TestClient(make_app(tokens=("first", "second")))
    headers = {"Authorization": value}
    assert client.post("/v1/segment", files={"file": VIDEO}, headers=headers).status_code == 200


def test_a_slow_segmentation_is_a_504(make_app: Any, backend: Any) -> None:
    backend.takes_s = 30
    client = TestClient(make_app(request_timeout_s=0.1))
    start_s = time.monotonic()
    response = client.post("/v1/segment", files={"file": VIDEO})
    assert _code(response) == (504, "timeout")
    assert time.monotonic() - start_s < 5


def test_a_slow_upload_is_a_408(make_app: Any, backend: Any) -> None:
    async def post() -> tuple[int, list[dict[str, Any]]]:
        num_asked = 0

        async def receive() -> dict[str, Any]:
            nonlocal num_asked
            num_asked += 1
            await asyncio.sleep(0.05)
            part = HEAD if num_asked == 1 else b"x"
            return {"type": "http.request", "body": part, "more_body": num_asked < 20}

        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/segment",
            "query_string": b"",
            "headers": [(b"content-type", b"multipart/form-data; boundary=b")],
        }
        await make_app(upload_timeout_s=0.2)(scope, receive, send)
        return num_asked, sent

    num_asked, sent = asyncio.run(post())
    assert sent[0]["status"] == 408
    assert num_asked < 10
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    assert not backend.calls


def test_a_full_queue_is_a_429_with_retry_after(make_app: Any, backend: Any) -> None:
    backend.takes_s = 0.5

    async def burst() -> list[httpx.Response]:
        transport = httpx.ASGITransport(make_app(max_open_requests=2))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            posts = [client.post("/v1/segment", files={"file": VIDEO}) for _ in range(5)]
            answers = await asyncio.gather(*posts, client.get("/healthz"))
            again = await client.post("/v1/segment", files={"file": VIDEO})
            return [*answers, again]

    *posts, probe, again = asyncio.run(burst())
    assert sorted(r.status_code for r in posts) == [200, 200, 429, 429, 429]
    assert all(int(r.headers["retry-after"]) > 0 for r in posts if r.status_code == 429)
    assert probe.status_code == 200
    assert again.status_code == 200
    assert len(backend.calls) == 3


def test_an_upload_that_breaks_off_frees_its_place(make_app: Any, backend: Any) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"--b\r\n"
        raise ConnectionError("gone")

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(max_open_requests=1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            await client.post("/v1/segment", content=broken(), headers=headers)
            return await client.post("/v1/segment", files={"file": VIDEO})

    assert asyncio.run(post()).status_code == 200
    assert len(backend.calls) == 1
