"""Who gets in: tokens, what their scopes open, and how many requests each may have."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable

import pytest
from bare_asgi import END, FORM, HEAD, Call, in_loop, until
from fastapi import FastAPI
from made_up_service import HASH, FakeBackend, client_of, code_of, error_of

from avs.serving.messages import Head

AppFactory = Callable[..., FastAPI]
SEGMENT = "/v1/segment"
FILE = {"file": ("clip.mp4", b"video bytes")}
TOKENS = "first,batch:batch,boss:admin,both:segment+admin"


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer wrong", "first", "Basic first", "Bearer first,boss", "Bearer "]
)
def test_without_a_token_nothing_but_probes_and_page(
    make_app: AppFactory, backend: FakeBackend, value: str
) -> None:
    client = client_of(make_app(tokens=TOKENS))
    headers = {"Authorization": value} if value else {}
    response = client.post(SEGMENT, files=FILE, headers=headers)
    assert code_of(response) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/nothing"):
        assert code_of(client.get(path, headers=headers)) == (401, "unauthorized"), path
    for path in ("/healthz", "/readyz", "/", "/page/app.js"):
        assert client.get(path, headers=headers).status_code == 200, path
    assert not backend.asked


def test_a_request_without_a_token_is_not_read(make_app: AppFactory) -> None:
    call = Call(make_app(tokens=TOKENS), HEAD, b"v", END)
    in_loop(call.run())
    assert call.status == 401
    assert call.num_read == 0


@pytest.mark.parametrize(
    ("token", "opens"),
    [
        ("first", {SEGMENT, "/v1/models"}),
        ("both", {SEGMENT, "/v1/models", "/metrics"}),
        ("boss", {"/metrics"}),
        ("batch", set()),
    ],
)
def test_a_token_opens_what_its_scopes_say(
    make_app: AppFactory, token: str, opens: set[str]
) -> None:
    client = client_of(make_app(tokens=TOKENS))
    answers = {
        SEGMENT: client.post(SEGMENT, files=FILE, headers=_bearer(token)),
        "/v1/models": client.get("/v1/models", headers=_bearer(token)),
        "/metrics": client.get("/metrics", headers=_bearer(token)),
    }
    assert {path for path, answer in answers.items() if answer.status_code == 200} == opens
    for path in set(answers) - opens:
        status, code, message = error_of(answers[path])
        assert (status, code) == (403, "forbidden")
        assert ("admin" if path == "/metrics" else "segment") in message
    for path in ("/docs", "/openapi.json"):
        assert client.get(path, headers=_bearer(token)).status_code == 200


def test_a_browser_logs_in_where_people_look(make_app: AppFactory) -> None:
    client = client_of(make_app(tokens=TOKENS))
    for path in ("/docs", "/openapi.json", "/metrics"):
        asked = client.get(path)
        assert asked.headers["www-authenticate"].startswith('Basic realm="avs"')
        assert client.get(path, headers=_basic("anyone", "both")).status_code == 200
        for password in ("wrong", ""):
            answer = client.get(path, headers=_basic("both", password))
            assert code_of(answer) == (401, "unauthorized")
        broken = {"Authorization": "Basic !!!"}
        assert code_of(client.get(path, headers=broken)) == (401, "unauthorized")
    response = client.post(SEGMENT, files=FILE, headers=_basic("x", "both"))
    assert code_of(response) == (401, "unauthorized")


def test_a_token_has_a_rate(make_app: AppFactory, backend: FakeBackend) -> None:
    client = client_of(make_app(tokens="first,second", access={"per_minute": 2}))
    for _ in range(2):
        assert client.post(SEGMENT, files=FILE, headers=_bearer("first")).status_code == 200
    refused = client.post(SEGMENT, files=FILE, headers=_bearer("first"))
    assert code_of(refused) == (429, "too_many")
    assert 0 < int(refused.headers["retry-after"]) <= 31
    assert client.get("/v1/models", headers=_bearer("first")).status_code == 200
    assert client.post(SEGMENT, files=FILE, headers=_bearer("second")).status_code == 200
    assert len(backend.asked) == 3


def test_a_token_has_a_number_of_open_requests(make_app: AppFactory, backend: FakeBackend) -> None:
    backend.parts = (60.0,)
    app = make_app(tokens="first,second", access={"concurrent": 1}, max_open_requests=9)

    async def scenario() -> None:
        def call(token: bytes) -> Call:
            authorization = (b"authorization", b"Bearer " + token)
            return Call(app, HEAD + b"v" + END, headers=(FORM, authorization))

        first, other = call(b"first"), call(b"second")
        tasks = [asyncio.create_task(one.run()) for one in (first, other)]
        await until(lambda: backend.num_begun == 2)
        for status in (429, 200):
            again = call(b"first")
            await again.run()
            assert again.status == status
            backend.parts = (Head(HASH, 2), b"{}")
            first.leaves.set()
            await tasks[0]
        other.leaves.set()
        await tasks[1]

    in_loop(scenario())
