"""Security headers on every answer, and pages of other sites: closed unless they are allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from made_up_service import FakeBackend, client_of, code_of
from starlette.websockets import WebSocketDisconnect

AppFactory = Callable[..., FastAPI]
SEGMENT = "/v1/segment"
FILE = {"file": ("clip.mp4", b"video bytes")}
APP = "https://app.example.org"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Sec-Fetch-Site": "cross-site"}
SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def _is_secured(response: Any) -> bool:
    headers = response.headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "geolocation=()" in headers["permissions-policy"]
    assert headers["cache-control"] in ("no-store", "no-cache")
    return {name: headers.get(name) for name in SECURITY} == SECURITY


def test_every_answer_has_the_security_headers(make_app: AppFactory, backend: FakeBackend) -> None:
    app = make_app(tokens="first", access={"per_minute": 2})
    client = client_of(app)
    client.headers["Authorization"] = "Bearer first"
    answers = [client.get(path) for path in ("/", "/docs", "/healthz", "/v1/models", "/nothing")]
    answers.append(client.get(SEGMENT))
    answers.append(client.get("/", headers={"Host": "evil.example"}))
    answers.append(client.get("/v1/models", headers={"Authorization": ""}))
    answers.append(client.post(SEGMENT, files=FILE))
    backend.parts = (KeyError("x"),)
    answers += [client.post(SEGMENT, files=FILE) for _ in range(2)]
    backend.is_up = False
    answers.append(client.get("/readyz"))
    wanted = [200, 200, 200, 200, 404, 405, 403, 401, 200, 500, 429, 503]
    assert [answer.status_code for answer in answers] == wanted
    assert all(_is_secured(answer) for answer in answers)


def test_a_defect_of_the_models_has_them_too(make_app: AppFactory, backend: FakeBackend) -> None:
    async def models() -> Any:
        raise KeyError("secret-place")

    backend.models = models  # type: ignore[method-assign]
    response = client_of(make_app()).get("/v1/models")
    assert code_of(response) == (500, "internal")
    assert "secret" not in response.text
    assert _is_secured(response)


def test_other_sites_are_closed_out_by_default(make_app: AppFactory, backend: FakeBackend) -> None:
    client = client_of(make_app())
    for headers in ({"Origin": APP}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        for response in (
            client.post(SEGMENT, files=FILE, headers=headers),
            client.get("/v1/models", headers=headers),
            client.options(SEGMENT, headers={**PREFLIGHT, **headers}),
        ):
            assert code_of(response) == (403, "foreign_page")
            assert not [name for name in response.headers if name.startswith("access-control")]
    assert not backend.asked


def test_an_allowed_site_may_call_and_read(make_app: AppFactory, backend: FakeBackend) -> None:
    client = client_of(make_app(tokens="first", access={"allowed_origins": [APP]}))
    headers = {"Origin": APP, "Sec-Fetch-Site": "cross-site"}
    preflight = client.options(SEGMENT, headers={**headers, **PREFLIGHT})
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == APP
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert not backend.asked
    called = client.post(SEGMENT, files=FILE, headers={**headers, "Authorization": "Bearer first"})
    assert called.status_code == 200
    refused = client.post(SEGMENT, files=FILE, headers=headers)
    assert code_of(refused) == (401, "unauthorized")
    for response in (called, refused):
        assert response.headers["access-control-allow-origin"] == APP
        assert "access-control-allow-credentials" not in response.headers
        assert response.headers["vary"] == "Origin"
    assert "x-avs-checkpoint" in called.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.org.evil.org",
        "https://evil.org/app.example.org",
        "http://app.example.org",
        "https://app.example.org:8443",
        "https://other.example.org",
        "null",
    ],
)
def test_no_other_site_is_taken_for_an_allowed_one(make_app: AppFactory, origin: str) -> None:
    client = client_of(make_app(access={"allowed_origins": [APP]}))
    for response in (
        client.post(SEGMENT, files=FILE, headers={"Origin": origin}),
        client.options(SEGMENT, headers={"Origin": origin, **PREFLIGHT}),
    ):
        assert code_of(response) == (403, "foreign_page")
        assert "access-control-allow-origin" not in response.headers


def test_the_case_of_an_allowed_site_does_not_matter(make_app: AppFactory) -> None:
    client = client_of(make_app(access={"allowed_origins": ["https://App.Example.org"]}))
    response = client.post(SEGMENT, files=FILE, headers={"Origin": APP})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == APP


def test_its_own_page_may_call(make_app: AppFactory) -> None:
    client = client_of(make_app())
    own = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert client.post(SEGMENT, files=FILE, headers=own).status_code == 200


def test_probes_answer_under_any_name(make_app: AppFactory) -> None:
    client = client_of(make_app(tokens="first"))
    for name in ("10.1.2.3:8000", "avs.default.svc", ""):
        for path in ("/healthz", "/readyz"):
            response = client.get(path, headers={"Host": name, "Origin": "https://evil.example"})
            assert response.status_code == 200
        assert code_of(client.get("/metrics", headers={"Host": name}))[0] == 403


def test_a_foreign_page_opens_no_socket(make_app: AppFactory) -> None:
    client = client_of(make_app())
    for headers in ({"Origin": APP}, {"Origin": "null"}, {"Host": "evil.example:8000"}):
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("/v1/live", headers=headers),
        ):
            pass
    own = {"Origin": "http://127.0.0.1:8000", "Host": "127.0.0.1:8000"}
    with client.websocket_connect("/v1/live", headers=own) as session:
        session.send_text("{}")
        assert session.receive_json()["event"] == "ready"


def test_sockets_take_places_too(make_app: AppFactory) -> None:
    client = client_of(make_app(max_open_requests=1))
    with client.websocket_connect("/v1/live", headers={"Host": "127.0.0.1"}) as session:
        session.send_text("{}")
        assert session.receive_json()["event"] == "ready"
        assert code_of(client.post(SEGMENT, files=FILE)) == (429, "busy")
    assert client.post(SEGMENT, files=FILE).status_code == 200
