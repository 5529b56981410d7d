"""The Python client against made-up answers: what it asks for, what it makes of what comes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import avs
from avs.client import Client, Progress, ServiceError
from avs.errors import ConfigError, MediaError
from avs.inference.track import MaskTrack

URL = "http://service.test:8000"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


@pytest.fixture
def track() -> MaskTrack:
    found = MaskTrack.empty(("background", "sounding"), masks_per_s=2)
    found.size_px, found.duration_s = (4, 6), 2.0
    for k in range(4):
        found.add(k / 2, np.eye(4, 6, k, dtype=np.uint8))
    return found


def _client(answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> Client:
    options = {"sleep": lambda _: None, **options}
    return Client(URL, transport=httpx.MockTransport(answer), **options)


def _events(track: MaskTrack) -> list[dict[str, Any]]:
    head = {k: v for k, v in track.to_json().items() if k not in ("masks", "format")}
    masks = track.to_json()["masks"]
    return [
        {"event": "start", **head, "video": "a\u2028b"},
        {"event": "masks", "masks": masks[:3]},
        {"event": "masks", "masks": masks[3:]},
        {"event": "end", "num_masks": 4, "warnings": ["no sound"]},
    ]


def _body(events: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(e, ensure_ascii=False).encode() + b"\n" for e in events)


def test_a_file_is_sent_as_a_form_and_its_masks_come_back(video: Path, track: MaskTrack) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=track.to_json())

    with _client(answer, token="s3cret") as client:
        found = client.segment(video, masks_per_s="native", threshold=0.25, objects=True, model="m")
    assert found == track
    request = asked[0]
    assert (request.method, request.url.path) == ("POST", "/v1/segment")
    assert dict(request.url.params) == {
        "format": "rle_json",
        "masks_per_s": "native",
        "threshold": "0.25",
        "objects": "true",
        "model": "m",
    }
    assert request.headers["Authorization"] == "Bearer s3cret"
    assert request.headers["X-AVS-Client"] == "python"
    body = request.read()
    assert b'name="file"; filename="clip.mp4"' in body
    assert video.read_bytes() in body


def test_an_address_is_sent_as_json_below_any_prefix(track: MaskTrack) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=track.to_json())

    client = Client(f"{URL}/avs/", transport=httpx.MockTransport(answer))
    client.segment("s3://bucket/clip.mp4")
    assert asked[0].url.path == "/avs/v1/segment"
    assert json.loads(asked[0].read()) == {"url": "s3://bucket/clip.mp4"}
    assert dict(asked[0].url.params) == {"format": "rle_json", "masks_per_s": "1"}
    assert "Authorization" not in asked[0].headers


def test_with_progress_the_upload_and_then_the_masks_are_told(
    video: Path, track: MaskTrack
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.params["format"] == "stream"
        request.read()
        return httpx.Response(200, content=_body(_events(track)))

    told: list[Progress] = []
    found = _client(answer).segment(video, masks_per_s=2, progress=told.append)
    assert found.masks == track.masks
    assert found.warnings == ["no sound"]
    size = video.stat().st_size
    sent = [now.sent_bytes for now in told]
    assert sent == sorted(sent)
    assert told[0].sent_bytes < size == told[-1].sent_bytes == told[-1].total_bytes
    done = [(now.num_masks, now.num_expected) for now in told]
    assert done[0] == (0, None)
    assert done[-3:] == [(0, 4), (3, 4), (4, 4)]


class _Pieces(httpx.SyncByteStream):
    """A body that comes in small pieces; remembers whether it was closed."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), 7):
            yield self._body[start : start + 7]

    def close(self) -> None:
        self.is_closed = True


def test_a_stream_gives_its_events_and_is_closed_with_its_iterator(track: MaskTrack) -> None:
    pieces = _Pieces(_body(_events(track)))
    client = _client(lambda _: httpx.Response(200, stream=pieces))
    assert list(client.stream("https://h/v.mp4")) == _events(track)
    assert pieces.is_closed
    pieces = _Pieces(_body(_events(track)))
    events = client.stream("https://h/v.mp4")
    next(events)
    assert not pieces.is_closed
    events.close()
    assert pieces.is_closed


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_stream_without_its_end_is_an_error(track: MaskTrack, cut: int) -> None:
    client = _client(lambda _: httpx.Response(200, content=_body(_events(track))[:-cut]))
    with pytest.raises(ServiceError, match="broke off") as error:
        list(client.stream("https://h/v.mp4"))
    assert error.value.code == "cut_off"


def test_an_error_in_a_stream_is_raised_with_its_words(track: MaskTrack) -> None:
    event = {"event": "error", "error": {"code": "timeout", "message": "was not done"}}
    client = _client(lambda _: httpx.Response(200, content=_body([*_events(track)[:2], event])))
    with pytest.raises(ServiceError, match="was not done") as error:
        client.segment("https://h/v.mp4", progress=lambda _: None)
    assert (error.value.status, error.value.code) == (None, "timeout")


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"event": "error", "error": 3}\n'])
def test_a_stream_of_something_else_is_an_error(line: bytes) -> None:
    client = _client(lambda _: httpx.Response(200, content=line))
    with pytest.raises(ServiceError) as error:
        list(client.stream("https://h/v.mp4"))
    assert error.value.code == "not_the_service"


def test_an_answer_is_saved_when_it_is_whole(tmp_path: Path, video: Path) -> None:
    target = tmp_path / "masks.zip"
    target.write_bytes(b"old")
    answers = [httpx.Response(200, stream=_Pieces(b"new" * 100)), httpx.Response(422, json={})]
    client = _client(lambda _: answers.pop(0))
    assert client.save(video, target, format="png") == target
    assert target.read_bytes() == b"new" * 100
    with pytest.raises(ServiceError):
        client.save(video, target, format="png")
    assert target.read_bytes() == b"new" * 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "masks.zip"]


def test_a_target_that_cannot_be_written_is_told_before_anything_is_sent(
    tmp_path: Path, video: Path
) -> None:
    client = _client(lambda _: pytest.fail("nothing may be sent"))
    for target in (tmp_path, tmp_path / "missing" / "masks.npz"):
        with pytest.raises(ConfigError, match="target="):
            client.save(video, target, format="npz")


def test_what_is_served_is_listed() -> None:
    client = _client(lambda _: httpx.Response(200, json={"models": [{"name": "default"}]}))
    assert client.models() == [{"name": "default"}]
    for plain in ([], {"models": 3}, {}):
        broken = _client(lambda _, plain=plain: httpx.Response(200, json=plain))
        with pytest.raises(ServiceError):
            broken.models()


def test_a_file_that_cannot_be_read_is_a_media_error(tmp_path: Path) -> None:
    client = _client(lambda _: pytest.fail("nothing may be sent"))
    for path in (tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(MediaError, match="cannot be read"):
            client.segment(path)


@pytest.mark.parametrize("url", ["", "service:8000", "ftp://service", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="url="):
        Client(url)


def test_a_token_that_cannot_be_sent_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as error:
        Client(URL, token="s3cret\r\nX: y")
    assert "s3cret" not in str(error.value)


def test_the_public_name_is_this_class_and_costs_no_torch() -> None:
    assert avs.Client is Client
    assert avs.__all__ == ["Client", "Predictor", "__version__"]
    code = "import sys, avs; avs.Client; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
