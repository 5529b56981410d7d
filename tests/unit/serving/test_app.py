"""The HTTP interface with a made-up backend: what goes in, what comes out, how errors look."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from made_up_service import HASH, CountingMeters, FakeBackend, client_of, code_of, error_of

from avs.serving import uploads
from avs.serving.messages import ANSWERS, ApiError, Head, Options, Refusal

VIDEO = ("clip.mp4", b"video bytes")
SEGMENT = "/v1/segment"
USUAL = Options(
    format="rle_json",
    masks_per_s=1,
    threshold=0.5,
    max_duration_s=600.0,
    objects=False,
    model="default",
)
ALL_GIVEN = {
    "format": "npz",
    "masks_per_s": "native",
    "threshold": "0.25",
    "max_duration_s": "12.5",
    "objects": "true",
    "model": "canary",
}
ALL_MEANT = Options(
    format="npz",
    masks_per_s=None,
    threshold=0.25,
    max_duration_s=12.5,
    objects=True,
    model="canary",
)


@pytest.fixture
def canary(make_app: Callable[..., FastAPI]) -> TestClient:
    """A service of two models."""
    return client_of(make_app(models={"canary": 0.0}))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that were asked for; each holds a video of that name."""
    urls: list[str] = []

    async def fetch_url(url: str, target: Path, *, limits: Any) -> str:
        urls.append(url)
        target.write_bytes(b"from " + url.encode())
        return url.rpartition("/")[2]

    monkeypatch.setattr(uploads, "fetch_url", fetch_url)
    return urls


def test_an_upload_reaches_the_backend_whole(client: TestClient, backend: FakeBackend) -> None:
    response = client.post(SEGMENT, files={"file": VIDEO})
    assert response.status_code == 200
    assert response.json() == {"masks": []}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-avs-model"] == "default"
    assert response.headers["x-avs-checkpoint"] == HASH
    [(upload, options)] = backend.asked
    assert (upload.name, upload.num_bytes, upload.data) == ("clip.mp4", 11, b"video bytes")
    assert options == USUAL


@pytest.mark.parametrize("where", ["params", "data"])
def test_every_option_is_taken_from_query_and_form(
    canary: TestClient, backend: FakeBackend, where: str
) -> None:
    request: dict[str, Any] = {where: ALL_GIVEN}
    assert canary.post(SEGMENT, files={"file": VIDEO}, **request).status_code == 200
    assert backend.asked[0][1] == ALL_MEANT


@pytest.mark.parametrize("plain", [False, True])
def test_every_option_is_taken_from_json(
    canary: TestClient, backend: FakeBackend, fetched: list[str], plain: bool
) -> None:
    values: dict[str, Any] = {"threshold": 0.25, "max_duration_s": 12.5, "objects": True}
    url = "https://example.org/a.mp4"
    given = {**ALL_GIVEN, **(values if plain else {}), "url": url}
    assert canary.post(SEGMENT, json=given).status_code == 200
    [(upload, options)] = backend.asked
    assert options == ALL_MEANT
    assert (upload.name, upload.data, fetched) == ("a.mp4", b"from " + url.encode(), [url])


def test_options_may_be_split_but_not_told_twice(
    canary: TestClient, backend: FakeBackend, fetched: list[str]
) -> None:
    url = {"url": "https://example.org/a.mp4"}
    for query in ("threshold=0.2", "threshold=0.3", "format=png&format=png"):
        given = {"threshold": "0.2", "objects": "true"}
        for request in ({"files": {"file": VIDEO}, "data": given}, {"json": {**url, **given}}):
            response = canary.post(f"{SEGMENT}?{query}", **request)  # type: ignore[arg-type]
            assert code_of(response) == (422, "invalid_field")
            name = query.partition("=")[0]
            assert error_of(response)[2] == f"'{name}' is given twice"
    assert not backend.asked
    response = canary.post(f"{SEGMENT}?model=canary", files={"file": VIDEO}, data={"format": "png"})
    assert response.status_code == 200
    assert (backend.asked[0][1].model, backend.asked[0][1].format) == ("canary", "png")


@pytest.mark.parametrize("where", ["params", "data", "json"])
def test_a_misspelt_option_is_refused(
    client: TestClient, backend: FakeBackend, fetched: list[str], where: str
) -> None:
    given = {"object": "true"}
    if where == "json":
        response = client.post(SEGMENT, json={"url": "https://example.org/a", **given})
    else:
        response = client.post(SEGMENT, files={"file": VIDEO}, **{where: given})  # type: ignore[arg-type]
    status, code, message = error_of(response)
    assert (status, code) == (422, "unknown_parameter")
    known = "format, masks_per_s, threshold, max_duration_s, objects, model"
    assert message == f"'object' is not known. Known: {known}."
    assert not backend.asked


@pytest.mark.parametrize("name", ANSWERS)
def test_each_format_has_its_type_length_and_name(
    client: TestClient, backend: FakeBackend, name: str
) -> None:
    length = None if name == "stream" else 5
    backend.parts = (Head(HASH, length), b"abc", b"de")
    response = client.post(f"{SEGMENT}?format={name}", files={"file": ("a b.tar.mp4", b"v")})
    assert response.content == b"abcde"
    headers = response.headers
    assert headers["content-type"] == ANSWERS[name].media_type
    assert headers.get("content-length") == (None if length is None else "5")
    suffix = ANSWERS[name].suffix
    wanted = (
        f"attachment; filename=\"a_b.tar{suffix}\"; filename*=UTF-8''a%20b.tar{suffix}"
        if suffix
        else None
    )
    assert headers.get("content-disposition") == wanted


@pytest.mark.parametrize(
    "name",
    [
        b'x%0d%0aSet-Cookie: a=b"; filename=evil.exe; \xc3\xbc\\"quoted.mp4',
        b"a\tb\x7f.mp4",
        b"../../etc/passwd",
        b"\xe2\x80\xaegpj.mp4",
        b"'; filename*=UTF-8''evil.exe",
        "日本語 ü.mp4".encode(),
        b"",
    ],
)
def test_a_file_name_cannot_add_headers(client: TestClient, name: bytes) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\nv\r\n--b--\r\n'
    )
    response = client.post(
        f"{SEGMENT}?format=overlay",
        content=body.replace(b"%s", name),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    disposition = response.headers["content-disposition"]
    assert disposition.isascii()
    assert disposition.isprintable()
    assert disposition.count('"') == 2
    assert disposition.count("filename*=UTF-8''") == 1
    assert "/" not in disposition
    assert disposition.endswith("-overlay.mp4")


def test_refusals_become_their_status(client: TestClient, backend: FakeBackend) -> None:
    backend.parts = (Refusal(415, "unsupported_media", "clip.mp4: is a text file"),)
    response = client.post(SEGMENT, files={"file": VIDEO})
    assert error_of(response) == (415, "unsupported_media", "clip.mp4: is a text file")


def test_an_error_of_the_backend_keeps_its_headers(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.parts = (ApiError(503, "unavailable", "try again", {"Retry-After": "5"}),)
    response = client.post(SEGMENT, files={"file": VIDEO})
    assert error_of(response) == (503, "unavailable", "try again")
    assert response.headers["retry-after"] == "5"


def test_a_full_disk_is_no_defect(client: TestClient, backend: FakeBackend) -> None:
    backend.parts = (OSError(errno.ENOSPC, "No space left on device"),)
    response = client.post(SEGMENT, files={"file": VIDEO})
    assert code_of(response) == (503, "no_room")
    assert response.headers["retry-after"] == "30"


def test_a_defect_shows_nothing_of_the_inside(client: TestClient, backend: FakeBackend) -> None:
    backend.parts = (KeyError("secret-place"),)
    response = client.post(SEGMENT, files={"file": VIDEO})
    assert code_of(response) == (500, "internal")
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert backend.num_closed == 1


def test_what_was_answered_is_counted(
    make_app: Callable[..., FastAPI], backend: FakeBackend
) -> None:
    meters = CountingMeters()
    client = client_of(make_app(meters=meters, max_open_requests=5))
    client.post(f"{SEGMENT}?format=png", files={"file": VIDEO})
    backend.parts = (Refusal(422, "too_long", "too long"),)
    client.post(SEGMENT, files={"file": VIDEO})
    backend.parts = (KeyError("x"),)
    client.post(SEGMENT, files={"file": VIDEO})
    assert meters.answers == [(200, "png"), (422, "rle_json"), (500, "rle_json")]
    assert meters.rejections == ["too_long", "internal"]
    assert meters.open == [1, 0] * 3


def test_the_probes_tell_alive_from_ready(client: TestClient, backend: FakeBackend) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    backend.is_up = False
    assert code_of(client.get("/readyz")) == (503, "not_ready")
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/metrics").text == "ray_avs_answered 3\n"


def test_unknown_paths_and_methods_answer_in_json(client: TestClient) -> None:
    assert code_of(client.get("/nothing")) == (404, "not_found")
    assert code_of(client.get("/page/../app.py")) == (404, "not_found")
    response = client.get(SEGMENT)
    assert code_of(response) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
