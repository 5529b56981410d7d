"""The Python client where things go wrong, and over real sockets."""

from __future__ import annotations

import json
import re
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from avs.client import Client, ServiceError

URL = "http://service.test:8000"
BUSY = {"error": {"code": "busy", "message": "too many requests"}}
MODELS = {"models": []}


class Answers:
    """Gives one answer after the other; remembers the requests and the pauses between them."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.bodies: list[bytes] = []
        self.pauses_s: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(request.read())
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **options: Any) -> Client:
        transport = httpx.MockTransport(self)
        return Client(URL, transport=transport, sleep=self.pauses_s.append, **options)


def _error(answers: Answers, **options: Any) -> ServiceError:
    with pytest.raises(ServiceError) as error:
        answers.client(**options).models()
    return error.value


def _date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def test_a_busy_service_is_asked_again_when_it_says(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"video" * 50_000)
    answers = Answers(
        httpx.Response(429, json=BUSY, headers={"Retry-After": "7"}),
        httpx.Response(503, json=BUSY, headers={"Retry-After": _date(60)}),
        httpx.Response(200, content=b"masks"),
    )
    answers.client().save(video, tmp_path / "masks.zip", format="png")
    assert 7 <= answers.pauses_s[0] <= 8
    assert 55 <= answers.pauses_s[1] <= 61
    plain = [re.sub(rb"--[0-9a-f]{32}", b"", body) for body in answers.bodies]
    assert plain[0] == plain[1] == plain[2]
    assert video.read_bytes() in plain[0]


def test_without_a_hint_the_pauses_grow_and_end() -> None:
    answers = Answers(*[httpx.Response(503, content=b"<html>")] * 9)
    error = _error(answers, retries=8)
    assert (error.status, error.code) == (503, "not_the_service")
    assert len(answers.bodies) == 9
    longest_s = [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert all(b / 2 <= a <= b for a, b in zip(answers.pauses_s, longest_s, strict=True))


def test_a_service_that_is_away_for_long_is_not_waited_for() -> None:
    error = _error(Answers(httpx.Response(429, json=BUSY, headers={"Retry-After": "3600"})))
    assert (error.code, error.retry_after_s) == ("busy", 3600.0)
    assert str(error) == "too many requests (busy, HTTP 429)"


@pytest.mark.parametrize("value", ["", "soon", "-3", "²", "Tue, 99 Foo 2026"])
def test_a_hint_that_is_none_is_no_hint(value: str) -> None:
    headers = [(b"Retry-After", value.encode())]
    answers = Answers(
        httpx.Response(429, json=BUSY, headers=headers), httpx.Response(200, json=MODELS)
    )
    assert answers.client().models() == []
    assert answers.pauses_s[0] <= 0.5


@pytest.mark.parametrize(
    "lost",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("no route"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("disconnected"),
    ],
)
def test_a_connection_that_is_lost_before_an_answer_is_made_again(lost: Exception) -> None:
    answers = Answers(lost, httpx.Response(200, json=MODELS))
    assert answers.client().models() == []
    error = _error(Answers(lost), retries=0)
    assert (error.status, error.code) == (None, "unreachable")
    assert "service.test cannot be reached" in str(error)


def test_silence_is_not_asked_for_again() -> None:
    assert _error(Answers(httpx.ReadTimeout("slow"))).code == "timeout"


@pytest.mark.parametrize("status", [400, 401, 413, 422, 500, 504])
def test_a_refusal_is_raised_with_the_words_of_the_service(status: int) -> None:
    told = {"error": {"code": "some_code", "message": "some words"}}
    error = _error(Answers(httpx.Response(status, json=told)))
    assert (error.status, error.code, error.message) == (status, "some_code", "some words")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(502, html="<h1>Bad gateway</h1>"),
        httpx.Response(200, html="<h1>Log in</h1>"),
        httpx.Response(200, content=b"nonsense"),
        httpx.Response(404, json=["no", "error"]),
        httpx.Response(400, json={"error": "flat"}),
        httpx.Response(400, content=b"[" * 100_000),
        httpx.Response(204),
    ],
)
def test_an_answer_of_something_else_is_told_as_such(answer: httpx.Response) -> None:
    assert _error(Answers(answer)).code == "not_the_service"


def test_a_redirect_is_not_followed() -> None:
    answers = Answers(httpx.Response(307, headers={"Location": "https://elsewhere.test/v1/models"}))
    error = _error(answers, token="s3cret")
    assert error.code == "redirect"
    assert "elsewhere.test" in str(error)
    assert len(answers.bodies) == 1


@contextmanager
def _bare_server(*answers: bytes) -> Iterator[str]:
    """Reads a request, sends one of the answers as it is and hangs up, for each of them."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # what is unread would make it a reset
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(timeout=30)


def test_an_answer_that_is_shorter_than_it_says_is_an_error(tmp_path: Path) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
    for answer in (cut, chunked):
        with _bare_server(answer) as url, Client(url) as client:
            with pytest.raises(ServiceError, match="broke off") as error:
                client.save("s3://bucket/clip.mp4", tmp_path / "masks.npz", format="npz")
            assert error.value.code == "cut_off"
    assert not list(tmp_path.iterdir())


def test_a_server_that_hangs_up_without_an_answer_is_asked_again() -> None:
    body = json.dumps(MODELS).encode()
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with _bare_server(b"", b"", whole) as url, Client(url, sleep=lambda _: None) as client:
        assert client.models() == []


class StreamingApp:
    """Counts an upload as it comes, answers with one event, and waits until the client leaves."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.has_left = threading.Event()

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        is_over = False
        while not is_over:
            message = await receive()
            self.num_bytes += len(message["body"])
            is_over = not message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        event = b'{"event": "start"}\n'
        await send({"type": "http.response.body", "body": event, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.has_left.set()


@contextmanager
def _uvicorn(app: StreamingApp) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def test_a_large_upload_is_not_held_in_memory_and_closing_a_stream_is_noticed(
    tmp_path: Path,
) -> None:
    video, app = tmp_path / "clip.mp4", StreamingApp()
    with video.open("wb") as file:
        file.truncate(64 << 20)
    with _uvicorn(app) as url, Client(url) as client:
        tracemalloc.start()
        try:
            events = client.stream(video)
            assert next(events) == {"event": "start"}
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not app.has_left.is_set()
        events.close()
        assert app.has_left.wait(timeout=30)
    assert app.num_bytes > 64 << 20
    assert peak_bytes < 8 << 20
