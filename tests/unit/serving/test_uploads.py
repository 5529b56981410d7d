"""Where received videos lie: small ones in memory, large ones in scratch, at last nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bare_asgi import END, HEAD, Call, in_loop, until
from fastapi import FastAPI
from made_up_service import FakeBackend, client_of, code_of

from avs.serving import scratch as scratch_module
from avs.serving import uploads
from avs.serving.messages import ApiError, Refusal

AppFactory = Callable[..., FastAPI]
LARGE = b"0123456789abcdef" * (3 << 16)  # 3 MiB: Starlette keeps 1 MiB in memory
LARGE_BODY = (HEAD, LARGE[: len(LARGE) // 2], LARGE[len(LARGE) // 2 :], END)
SPOOLS: dict[str, Any] = {"spool_above_bytes": 1000}


def _left(tmp_path: Path) -> list[Path]:
    """The files in the scratch folder of ``make_app``."""
    return [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]


def test_an_upload_that_is_cancelled_while_it_is_spooled_leaves_nothing(
    make_app: AppFactory,
    backend: FakeBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        loop, begun, goes_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        put = scratch_module.Scratch.put

        def slow_put(self: Any, path: Path) -> str:
            uri = put(self, path)
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result(10)
            return uri

        monkeypatch.setattr(scratch_module.Scratch, "put", slow_put)
        work = asyncio.create_task(Call(make_app(**SPOOLS), *LARGE_BODY).run())
        await begun.wait()
        work.cancel()
        await asyncio.sleep(0.05)
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await work
        await until(lambda: not list((tmp_path / "scratch" / "avs-uploads").iterdir()))

    in_loop(scenario())
    assert not backend.asked


@pytest.mark.parametrize("num_bytes", [1000, 1001, len(LARGE)])
def test_large_uploads_are_spooled_and_small_ones_are_not(
    make_app: AppFactory, backend: FakeBackend, tmp_path: Path, num_bytes: int
) -> None:
    client = client_of(make_app(**SPOOLS))
    response = client.post("/v1/segment", files={"file": ("a.mp4", LARGE[:num_bytes])})
    assert response.status_code == 200
    [(upload, _)] = backend.asked
    assert backend.received == [LARGE[:num_bytes]]
    assert (upload.name, upload.num_bytes) == ("a.mp4", num_bytes)
    assert (upload.uri is None, upload.data is None) == (num_bytes == 1000, num_bytes > 1000)
    assert _left(tmp_path) == []


def test_a_refused_upload_leaves_nothing(
    make_app: AppFactory, backend: FakeBackend, tmp_path: Path
) -> None:
    client = client_of(make_app(**SPOOLS))
    response = client.post("/v1/segment?format=gif", files={"file": ("a.mp4", LARGE)})
    assert code_of(response) == (422, "unknown_format")
    for part in (Refusal(415, "x", "y"), KeyError("x")):
        backend.parts = (part,)
        client.post("/v1/segment", files={"file": ("a.mp4", LARGE)})
    assert backend.num_closed == 2
    assert _left(tmp_path) == []


@pytest.mark.parametrize("num_bytes", [1000, 1001])
def test_fetched_videos_lie_where_uploads_do(
    make_app: AppFactory,
    backend: FakeBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_bytes: int,
) -> None:
    async def fetch_url(_: str, target: Path, *, limits: Any) -> str:
        target.write_bytes(LARGE[:num_bytes])
        return "a.mp4"

    monkeypatch.setattr(uploads, "fetch_url", fetch_url)
    client = client_of(make_app(**SPOOLS))
    given = {"url": "https://example.org/a.mp4"}
    assert client.post("/v1/segment", json=given).status_code == 200
    [(upload, _)] = backend.asked
    assert (upload.uri is None, upload.num_bytes) == (num_bytes == 1000, num_bytes)
    assert backend.received == [LARGE[:num_bytes]]
    assert _left(tmp_path) == []


def test_a_fetch_that_fails_leaves_nothing(
    make_app: AppFactory,
    backend: FakeBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fetch_url(_: str, target: Path, *, limits: Any) -> str:
        target.write_bytes(b"half")
        raise ApiError(504, "fetch_timeout", "the address took too long")

    monkeypatch.setattr(uploads, "fetch_url", fetch_url)
    given = {"url": "https://example.org/a.mp4"}
    response = client_of(make_app()).post("/v1/segment", json=given)
    assert code_of(response) == (504, "fetch_timeout")
    assert _left(tmp_path) == []
    assert not backend.asked


def test_a_scratch_that_is_full_is_a_defect_that_leaves_nothing(
    make_app: AppFactory,
    backend: FakeBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def put(*_: Any) -> str:
        raise OSError("No space left on device: secret-place")

    monkeypatch.setattr(scratch_module.Scratch, "put", put)
    client = client_of(make_app(**SPOOLS))
    response = client.post("/v1/segment", files={"file": ("a.mp4", LARGE)})
    assert code_of(response) == (500, "internal")
    assert "secret" not in response.text
    assert _left(tmp_path) == []
