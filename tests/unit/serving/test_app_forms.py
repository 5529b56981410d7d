"""Bodies that are no upload as it should be: each is told in words, none is a server error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from bare_asgi import END, HEAD
from fastapi import FastAPI
from fastapi.testclient import TestClient
from made_up_service import FakeBackend, client_of, code_of, error_of

from avs.serving.names import client_name

VIDEO = ("clip.mp4", b"video bytes")
SEGMENT = "/v1/segment"
JSON = {"Content-Type": "application/json"}
CHARSETS = ["unicode_escape", "raw_unicode_escape", "utf-16", "utf-32", "utf-7", "utf_8_sig"]
CHARSETS += ["idna", "punycode", "undefined", "mbcs", "cp037", "nonsense", "ü"]
CHARSETS += ["rot13", "base64", "bz2", "zlib", "hex"]  # Python's, which are no charsets at all
BOUNDARIES = ["", "b", '"b"', "ü", " ", "b" * 300, "b; boundary=c", '"', "\\", "b\x0b", "-" * 70]

# Starlette forgets to close what it holds of a file part that was cut off; it goes all the same.
_CUT_OFF = pytest.mark.filterwarnings("ignore:Unclosed file .*Spooled:ResourceWarning")


def _form(client: TestClient, body: bytes, kind: str, query: str = "") -> Any:
    headers = {b"Content-Type": kind.encode()}
    return client.post(f"{SEGMENT}{query}", content=body, headers=headers)


def test_a_missing_file_is_named(client: TestClient, backend: FakeBackend) -> None:
    for request in ({"files": {"format": (None, "png")}}, {"content": b"raw"}, {}, {"data": {}}):
        status, code, message = error_of(client.post(SEGMENT, **request))  # type: ignore[arg-type]
        assert (status, code) == (422, "missing_field")
        assert "multipart field 'file'" in message
        assert '{"url": ' in message
    assert not backend.asked


def test_a_file_under_another_name_is_refused(client: TestClient, backend: FakeBackend) -> None:
    response = client.post(SEGMENT, files={"video": VIDEO})
    assert code_of(response) == (422, "missing_field")
    files = {"format": VIDEO, "file": (None, "text")}
    assert code_of(client.post(SEGMENT, files=files)) == (422, "invalid_field")
    assert not backend.asked


def test_a_text_named_file_is_no_file(client: TestClient, backend: FakeBackend) -> None:
    secret = "input-that-must-not-come-back"
    response = client.post(SEGMENT, data={"file": secret}, files={"other": b""})
    assert error_of(response)[0] == 422
    assert secret not in response.text
    response = client.post(SEGMENT, data={"file": secret})  # not multipart
    assert error_of(response)[0] == 422
    assert secret not in response.text
    assert not backend.asked


def test_form_parsing_is_bounded(client: TestClient, backend: FakeBackend) -> None:
    files = [("file", VIDEO), ("file", VIDEO)]
    assert code_of(client.post(SEGMENT, files=files)) == (400, "bad_request")
    fields = {f"field{i}": "x" for i in range(9)}
    response = client.post(SEGMENT, files={"file": VIDEO}, data=fields)
    assert code_of(response) == (400, "bad_request")
    response = client.post(SEGMENT, files={"file": VIDEO}, data={"format": "x" * 5000})
    assert code_of(response) == (400, "bad_request")
    assert not backend.asked


@_CUT_OFF
def test_a_broken_form_is_a_400(client: TestClient, backend: FakeBackend) -> None:
    kind = "multipart/form-data; boundary=b"
    for body in (b"--b\r\nnonsense", b"", b"no boundary", b"--b\r\n\r\n\r\n--b--", HEAD + b"v"):
        assert error_of(_form(client, body, kind))[0] in (400, 422), body
    assert code_of(_form(client, b"", "multipart/form-data")) == (400, "bad_request")
    assert not backend.asked


@_CUT_OFF
def test_a_form_that_was_cut_off_is_no_upload(client: TestClient, backend: FakeBackend) -> None:
    response = _form(client, HEAD + b"half of a vid", "multipart/form-data; boundary=b")
    assert error_of(response)[0] in (400, 422)
    assert not backend.asked


@pytest.mark.parametrize("charset", CHARSETS)
def test_a_name_in_an_odd_charset_is_no_server_error(client: TestClient, charset: str) -> None:
    for name in (b"\\ud800\\r\\n.mp4", b"\xff\xfe\x00", b"xn--\xff", b"a" * 100):
        body = HEAD.replace(b"clip.mp4", name) + b"v" + END
        kind = f"multipart/form-data; boundary=b; charset={charset}"
        response = _form(client, body, kind, "?format=overlay")
        assert response.status_code < 500, (charset, name, response.text)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_an_odd_boundary_is_no_server_error(client: TestClient, boundary: str) -> None:
    for body in (HEAD + b"v" + END, b"--\r\n\r\n----", b""):
        response = _form(client, body, f"multipart/form-data; boundary={boundary}")
        assert response.status_code < 500, (boundary, body, response.text)


@pytest.mark.parametrize(
    "kind", ["", ";", "multipart/", "text/plain", "application/x-www-form-urlencoded", "ü/ü; a=ü"]
)
def test_another_content_type_is_no_server_error(client: TestClient, kind: str) -> None:
    for body in (HEAD + b"v" + END, b"%%%=&&&;=%ff", b"\xff" * 100, b"file=x&file=x"):
        response = _form(client, body, kind)
        assert error_of(response)[0] == 422, (kind, body)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"{", (400, "bad_request")),
        (b"\xff\xfe\xff", (400, "bad_request")),
        (b"[" * 30_000, (400, "bad_request")),
        (b"1" * 5000, (400, "bad_request")),
        (b"[]", (422, "invalid_field")),
        (b"null", (422, "invalid_field")),
        (b"{}", (422, "missing_field")),
        (b'{"url": 3}', (422, "missing_field")),
        (b'{"url": "x"}', (422, "bad_url")),
        (b'{"url": "https://\\ud800/"}', (422, "bad_url")),
        (b'{"url": "file:///etc/passwd"}', (422, "bad_url")),
        (b'{"url": "' + b"x" * 70_000 + b'"}', (413, "too_large")),
    ],
)
def test_json_that_gives_no_address_is_told(
    client: TestClient, backend: FakeBackend, body: bytes, wanted: tuple[int, str]
) -> None:
    response = client.post(SEGMENT, content=body, headers=JSON)
    assert code_of(response) == wanted
    assert len(response.text) < 1000
    assert not backend.asked


def test_a_service_may_fetch_no_addresses(
    make_app: Callable[..., FastAPI], backend: FakeBackend
) -> None:
    client = client_of(make_app(fetch={"https": False}))
    for url in ("https://example.org/a.mp4", "HTTPS://example.org/a.mp4", "s3://bucket/a.mp4"):
        response = client.post(SEGMENT, content=json.dumps({"url": url}), headers=JSON)
        assert code_of(response) == (403, "forbidden_url"), url
    assert not backend.asked


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("a b.mp4", "a b.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\videos\\a.mp4", "a.mp4"),
        ("a\r\nX-Evil: 1.mp4", "aX-Evil: 1.mp4"),
        ("\x00\x1b[31m.mp4", "[31m.mp4"),
        ("\ud800.mp4", "mp4"),
        ("\u202egpj.mp4", "gpj.mp4"),
        ("..", "file"),
        ("", "file"),
        (None, "file"),
        ("ü" * 500, "ü" * 200),
    ],
)
def test_client_names_are_made_safe(sent: str | None, shown: str) -> None:
    assert client_name(sent) == shown
