"""Answers that do not go as planned: the client leaves, time runs out, the work breaks off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bare_asgi import END, HEAD, Call, in_loop, until
from fastapi import FastAPI
from made_up_service import HASH, CountingMeters, FakeBackend, client_of, code_of

from avs.serving.messages import ApiError, Head, Refusal

AppFactory = Callable[..., FastAPI]
LARGE = b"0123456789abcdef" * (3 << 16)  # 3 MiB: Starlette keeps 1 MiB in memory
BODY = HEAD + b"video" + END
LARGE_BODY = (HEAD, LARGE[: len(LARGE) // 2], LARGE[len(LARGE) // 2 :], END)
SPOOLS: dict[str, Any] = {"spool_above_bytes": 1000}


def _left(tmp_path: Path) -> list[Path]:
    """The files in the scratch folder of ``make_app``."""
    return [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]


@pytest.mark.parametrize("parts", [(60.0,), (Head(HASH, None), b"a\n", 60.0)])
def test_when_the_client_leaves_the_work_stops(
    make_app: AppFactory, backend: FakeBackend, tmp_path: Path, parts: Any
) -> None:
    backend.parts = parts

    async def scenario() -> None:
        call = Call(make_app(**SPOOLS), *LARGE_BODY, query="format=stream")
        work = asyncio.create_task(call.run())
        await until(lambda: backend.num_begun and (len(call.sent) == len(parts) - 1))
        assert _left(tmp_path)
        call.leaves.set()
        await work
        assert backend.num_closed == 1
        assert not call.is_whole
        assert _left(tmp_path) == []

    in_loop(scenario())


def test_a_client_that_leaves_frees_its_place(make_app: AppFactory, backend: FakeBackend) -> None:
    async def scenario() -> None:
        backend.parts = (60.0,)
        app = make_app(max_open_requests=1)
        first = Call(app, BODY)
        work = asyncio.create_task(first.run())
        await until(lambda: backend.num_begun)
        second = Call(app, BODY)
        await second.run()
        assert second.status == 429
        first.leaves.set()
        await work
        backend.parts = (Head(HASH, 2), b"{}")
        third = Call(app, BODY)
        await third.run()
        assert third.status == 200

    in_loop(scenario())


def test_a_cancelled_request_cleans_up(
    make_app: AppFactory, backend: FakeBackend, tmp_path: Path
) -> None:
    """Ray Serve cancels the task of a request whose client has left."""
    backend.parts = (60.0,)

    async def scenario() -> None:
        call = Call(make_app(**SPOOLS), *LARGE_BODY)
        work = asyncio.create_task(call.run())
        await until(lambda: backend.num_begun)
        [upload] = [upload for upload, _ in backend.asked]
        assert upload.uri is not None
        assert _left(tmp_path) == [Path(upload.uri)]
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert backend.num_closed == 1
        assert _left(tmp_path) == []

    in_loop(scenario())


def test_a_client_that_leaves_in_the_middle_of_its_upload_is_no_defect(
    make_app: AppFactory, backend: FakeBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    class Leaving(Call):
        async def _receive(self) -> Any:
            message = await super()._receive()
            return message if self._body else {"type": "http.disconnect"}

    async def scenario() -> None:
        app = make_app(max_open_requests=1)
        for _ in range(2):
            await Leaving(app, HEAD, b"half", b"never sent").run()
        whole = Call(app, BODY)
        await whole.run()
        assert whole.status == 200

    in_loop(scenario())
    assert backend.num_begun == 1
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["rle_json", "stream"])
def test_what_takes_too_long_before_its_first_byte_is_a_504(
    make_app: AppFactory, backend: FakeBackend, name: str
) -> None:
    backend.parts = (60.0,)
    client = client_of(make_app(limits={"request_timeout_s": 0.1}))
    response = client.post(f"/v1/segment?format={name}", files={"file": ("a.mp4", b"v")})
    assert code_of(response) == (504, "timeout")
    assert response.json()["error"]["message"] == "a.mp4 was not done within 0.1 s"
    assert "content-disposition" not in response.headers
    assert backend.num_closed == 1


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (60.0, "timeout"),
        (Refusal(422, "unreadable", "clip.mp4: is damaged"), "unreadable"),
        (ApiError(503, "unavailable", "gone"), "unavailable"),
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error(
    make_app: AppFactory, backend: FakeBackend, trouble: Any, code: str
) -> None:
    backend.parts = (Head(HASH, None), b'{"event": "start"}\n', trouble)
    meters = CountingMeters()
    app = make_app(limits={"request_timeout_s": 0.2}, meters=meters)
    response = client_of(app).post("/v1/segment?format=stream", files={"file": ("a.mp4", b"v")})
    assert response.status_code == 200
    first, last = [json.loads(line) for line in response.text.splitlines()]
    assert first == {"event": "start"}
    assert (last["event"], last["error"]["code"]) == ("error", code)
    assert set(last["error"]) == {"code", "message"}
    assert meters.rejections == [code]
    assert [status for status, _ in meters.answers] != [200]


@pytest.mark.parametrize(
    "trouble", [60.0, Refusal(422, "unreadable", "damaged"), ApiError(503, "x", "y"), KeyError("x")]
)
def test_a_file_that_breaks_off_does_not_end_cleanly(
    make_app: AppFactory, backend: FakeBackend, trouble: Any
) -> None:
    backend.parts = (Head(HASH, 100), b"half", trouble)

    async def scenario() -> None:
        app = make_app(limits={"request_timeout_s": 0.2})
        call = Call(app, BODY, query="format=npz")
        with pytest.raises((RuntimeError, ApiError, KeyError)):
            await call.run()
        assert call.headers["content-length"] == "100"
        assert call.content == b"half"
        assert not call.is_whole
        assert backend.num_closed == 1

    in_loop(scenario())


def test_parts_are_sent_as_they_come(make_app: AppFactory, backend: FakeBackend) -> None:
    backend.parts = (Head(HASH, None), b"a\n", 0.2, b"b\n", 60.0)

    async def scenario() -> None:
        call = Call(make_app(), BODY, query="format=stream")
        work = asyncio.create_task(call.run())
        await until(lambda: call.content == b"a\n")
        assert not work.done()
        await until(lambda: call.content == b"a\nb\n")
        call.leaves.set()
        await work

    in_loop(scenario())
