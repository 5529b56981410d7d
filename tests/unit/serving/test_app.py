"""The HTTP interface with a made-up segmenter: what goes in, what comes out, how errors look."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from avs.inference.outputs import OutputKind
from avs.serving.app import client_name
from avs.serving.messages import Answer, ApiError, Refusal

VIDEO = ("clip.mp4", b"video bytes")


def _error(response: Any) -> tuple[int, str, str]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return response.status_code, body["error"]["code"], body["error"]["message"]


def test_an_upload_reaches_the_backend_whole(client: TestClient, backend: Any) -> None:
    response = client.post("/v1/segment", files={"file": VIDEO})
    assert response.status_code == 200
    assert response.json() == {"masks": []}
    assert response.headers["content-type"] == "application/json"
    assert backend.calls == [(b"video bytes", "clip.mp4", OutputKind.RLE_JSON, False)]


@pytest.mark.parametrize("where", ["params", "data"])
def test_the_format_is_taken_from_query_and_form(
    client: TestClient, backend: Any, where: str
) -> None:
    backend.answer = Answer(b"mp4")
    response = client.post("/v1/segment", files={"file": VIDEO}, **{where: {"format": "overlay"}})
    assert response.content == b"mp4"
    assert response.headers["content-type"] == "video/mp4"
    assert backend.calls[0][2] is OutputKind.OVERLAY


@pytest.mark.parametrize("where", ["params", "data"])
def test_objects_are_asked_for_in_query_or_form(
    client: TestClient, backend: Any, where: str
) -> None:
    for text, wanted in (("true", True), ("1", True), ("false", False)):
        response = client.post("/v1/segment", files={"file": VIDEO}, **{where: {"objects": text}})
        assert response.status_code == 200
        assert backend.calls[-1][3] is wanted


def test_objects_that_are_neither_true_nor_false_are_refused(
    client: TestClient, backend: Any
) -> None:
    response = client.post("/v1/segment?objects=some", files={"file": VIDEO})
    status, code, message = _error(response)
    assert (status, code) == (422, "invalid_field")
    assert message.startswith("objects: ")
    assert "boolean" in message
    assert not backend.calls


def test_a_misspelt_parameter_is_refused(client: TestClient, backend: Any) -> None:
    response = client.post("/v1/segment?object=true", files={"file": VIDEO})
    status, code, message = _error(response)
    assert (status, code) == (422, "unknown_parameter")
    assert message == "'object' is not known. Known: format and objects."
    assert not backend.calls


def test_an_unknown_format_names_the_known_ones(client: TestClient, backend: Any) -> None:
    response = client.post("/v1/segment?format=gif", files={"file": VIDEO})
    status, code, message = _error(response)
    assert (status, code) == (422, "unknown_format")
    assert "'gif'" in message
    assert "rle_json, overlay" in message
    assert not backend.calls


def test_a_missing_file_field_is_named(client: TestClient) -> None:
    for request in ({"files": {"video": VIDEO}}, {"json": {}}, {"content": b"raw"}, {}):
        status, code, message = _error(client.post("/v1/segment", **request))  # type: ignore[arg-type]
        assert (status, code) == (422, "missing_field")
        assert "'file'" in message


def test_a_text_field_named_file_is_no_file(client: TestClient, backend: Any) -> None:
    secret = "input-that-must-not-come-back"
    response = client.post("/v1/segment", data={"file": secret}, files={"other": b""})
    assert _error(response)[0] == 422
    assert secret not in response.text
    assert not backend.calls


def test_form_parsing_is_bounded(client: TestClient, backend: Any) -> None:
    files = [("file", VIDEO), ("file", VIDEO)]
    assert _error(client.post("/v1/segment", files=files))[0] == 400
    fields = {f"field{i}": "x" for i in range(9)}
    response = client.post("/v1/segment", files={"file": VIDEO}, data=fields)
    assert _error(response)[0] == 400
    response = client.post("/v1/segment", files={"file": VIDEO}, data={"format": "x" * 2000})
    assert _error(response)[0] == 400
    assert not backend.calls


def test_a_broken_form_is_a_400(client: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = client.post("/v1/segment", content=b"--b\r\nnonsense", headers=headers)
    assert _error(response)[0] in (400, 422)


def test_a_refusal_becomes_its_status(client: TestClient, backend: Any) -> None:
    backend.answer = Refusal(415, "unsupported_media", "clip.mp4: is a text file")
    response = client.post("/v1/segment", files={"file": VIDEO})
    assert _error(response) == (415, "unsupported_media", "clip.mp4: is a text file")


def test_an_error_of_the_backend_keeps_its_headers(client: TestClient, backend: Any) -> None:
    backend.answer = ApiError(503, "unavailable", "try again", {"Retry-After": "5"})
    response = client.post("/v1/segment", files={"file": VIDEO})
    assert _error(response) == (503, "unavailable", "try again")
    assert response.headers["retry-after"] == "5"


def test_a_defect_shows_nothing_of_the_inside(client: TestClient, backend: Any) -> None:
    backend.answer = KeyError("/srv/secret/path")
    response = client.post("/v1/segment", files={"file": VIDEO})
    assert _error(response)[:2] == (500, "internal")
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_the_probes_tell_alive_from_ready(client: TestClient, backend: Any) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    backend.is_up = False
    assert _error(client.get("/readyz"))[:2] == (503, "not_ready")
    assert client.get("/healthz").json() == {"status": "ok"}


def test_unknown_paths_and_methods_answer_in_json(client: TestClient) -> None:
    assert _error(client.get("/nothing"))[:2] == (404, "not_found")
    response = client.get("/v1/segment")
    assert _error(response)[:2] == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_no_page_loads_foreign_scripts(client: TestClient) -> None:
    assert client.get("/docs").status_code == 404
    assert client.get("/redoc").status_code == 404
    assert "/v1/segment" in client.get("/openapi.json").json()["paths"]


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


def test_a_file_name_cannot_add_headers(client: TestClient, backend: Any) -> None:
    backend.answer = Answer(b"mp4")
    boundary = {"Content-Type": "multipart/form-data; boundary=b"}
    name = b'x%0d%0aSet-Cookie: a=b"; filename=evil.exe; \xc3\xbc\\"quoted.mp4'
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\nv\r\n--b--\r\n'
    )
    response = client.post(
        "/v1/segment?format=overlay", content=body.replace(b"%s", name), headers=boundary
    )
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    disposition = response.headers["content-disposition"]
    assert disposition.isascii()
    assert disposition.count('"') == 2
    assert disposition.startswith("attachment; filename=")


def test_a_name_in_an_odd_charset_is_no_server_error(client: TestClient) -> None:
    for charset in ("unicode_escape", "utf-16", "rot13", "idna", "nonsense"):
        headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
        body = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="\\ud800\\r\\n.mp4"'
            b"\r\n\r\nv\r\n--b--\r\n"
        )
        response = client.post("/v1/segment?format=overlay", content=body, headers=headers)
        assert response.status_code < 500, (charset, response.text)
