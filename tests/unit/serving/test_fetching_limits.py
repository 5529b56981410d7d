"""What is fetched ends at a size and at a time, and leaves no part behind."""

from __future__ import annotations

import asyncio
import gzip
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from made_up_internet import HOST, Internet, answering, make_internet, refusal, streaming

from avs.serving.messages import ApiError

URL = f"https://{HOST}/a.mp4"


@pytest.fixture
def internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Internet:
    return make_internet(tmp_path, monkeypatch)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def test_a_declared_size_is_refused_unread(internet: Internet, target: Path) -> None:
    async def claiming(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1001"})
        await response.prepare(request)
        await asyncio.sleep(60)
        return response

    with pytest.raises(ApiError, match="1000 bytes") as caught:
        internet.fetch(URL, target, handler=claiming, max_bytes=1000)
    assert refusal(caught) == (413, "too_large")
    assert not target.exists()


def test_a_size_that_is_not_declared_is_counted(internet: Internet, target: Path) -> None:
    parts = [b"x" * 100] * 11
    with pytest.raises(ApiError) as caught:
        internet.fetch(URL, target, handler=streaming(*parts, b""), max_bytes=1000)
    assert refusal(caught) == (413, "too_large")
    assert not target.exists()


def test_a_body_at_the_limit_passes(internet: Internet, target: Path) -> None:
    internet.fetch(URL, target, handler=streaming(*[b"x" * 100] * 10), max_bytes=1000)
    assert target.read_bytes() == b"x" * 1000
    target.unlink()
    internet.fetch(URL, target, handler=answering(body=b"x" * 1000), max_bytes=1000)
    assert target.stat().st_size == 1000


def test_a_compressed_body_stays_as_it_was_sent(internet: Internet, target: Path) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    handler = answering(body=bomb, **{"Content-Encoding": "gzip"})
    internet.fetch(URL, target, handler=handler, max_bytes=len(bomb))
    assert target.read_bytes() == bomb


def test_a_slow_drip_ends(internet: Internet, target: Path) -> None:
    start_s = time.monotonic()
    with pytest.raises(ApiError, match=r"within 0\.5 s") as caught:
        internet.fetch(URL, target, handler=streaming(*[b"x"] * 600, pause_s=0.1), timeout_s=0.5)
    assert refusal(caught) == (504, "fetch_timeout")
    assert time.monotonic() - start_s < 5
    assert not target.exists()


def test_the_time_counts_redirects_together(internet: Internet, target: Path) -> None:
    async def again(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response(status=302, headers={"Location": "/again"})

    with pytest.raises(ApiError) as caught:
        internet.fetch(URL, target, handler=again, timeout_s=1.0, max_redirects=1000)
    assert refusal(caught) == (504, "fetch_timeout")


def test_a_body_that_breaks_off_is_no_video(internet: Internet, target: Path) -> None:
    async def breaking(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 500)
        assert request.transport
        request.transport.close()
        return response

    with pytest.raises(ApiError, match="broke the connection off") as caught:
        internet.fetch(URL, target, handler=breaking)
    assert refusal(caught) == (422, "unreachable")
    assert not target.exists()


def test_the_disk_is_not_waited_for_in_the_event_loop(
    internet: Internet, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    class Spy(io.BytesIO):
        def write(self, data: Any) -> int:
            threads.append(threading.current_thread())
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda *_: Spy())
    internet.fetch(URL, target, handler=answering())
    assert threads
    assert threading.main_thread() not in threads


def test_a_disk_that_fails_is_not_blamed_on_the_sender(
    internet: Internet, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def write(self, _: Any) -> int:
            raise TimeoutError("of a network disk")

    monkeypatch.setattr(Path, "open", lambda *_: Failing())
    with pytest.raises(TimeoutError, match="network disk"):
        internet.fetch(URL, target, handler=answering())


def test_a_file_that_is_there_is_kept(internet: Internet, target: Path) -> None:
    target.write_bytes(b"of another")
    with pytest.raises(FileExistsError):
        internet.fetch(URL, target, handler=answering())
    assert target.read_bytes() == b"of another"
