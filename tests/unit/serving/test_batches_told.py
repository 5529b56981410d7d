"""What is told of a batch: its progress and its failure, and as the documentation says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from batch_calls import PREFIXES, TOKENS, URL, batch_client, bearer, get, start
from fastapi import FastAPI
from fastapi.testclient import TestClient
from made_up_service import FakeJobs, client_of

from avs import storage

AppFactory = Callable[..., FastAPI]
ITER_FILES = storage.iter_files


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs()


@pytest.fixture
def client(make_app: AppFactory, jobs: FakeJobs) -> TestClient:
    return batch_client(make_app, jobs)


@pytest.fixture(autouse=True)
def no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing lies in the output."""
    monkeypatch.setattr(storage, "iter_files", lambda _: iter(()))


@pytest.fixture
def outputs(s3_folder: str, no_outputs: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix in S3 that holds what a batch has written."""
    monkeypatch.setattr(storage, "iter_files", ITER_FILES)
    return s3_folder


def test_while_it_runs_the_commit_records_are_counted(
    make_app: AppFactory, jobs: FakeJobs, outputs: str
) -> None:
    prefixes = {"input_prefixes": ["s3://b/in"], "output_prefixes": [outputs]}
    client = client_of(make_app(tokens=TOKENS, jobs=jobs, batches=prefixes))
    out = f"{outputs}/y"
    id_ = start(client, output=out).json()["id"]
    for name in ("a/commit.json", "a/masks.json", "b/c/commit.json", "commit.json", "d/masks.json"):
        storage.write_bytes(f"{out}/{name}", b"{}")
    storage.write_json(f"{out}/summary.json", {"rows": {"videos": 9, "ok": 9, "rejected": 0}})
    running = get(client, id_).json()
    assert running["counts"] is None  # that of an earlier batch
    assert running["committed"] == {"videos": 2, "at_least": False}
    storage.write_json(f"{out}/summary.json", {"rows": {"videos": 3, "ok": 2, "rejected": 1}})
    for changes in ({"status": "SUCCEEDED"}, {"status": "FAILED", "exit_code": 3}):
        jobs.change(id_, **changes)
        done = get(client, id_).json()
        assert done["counts"] == {"videos": 3, "ok": 2, "rejected": 1}
        assert done["committed"] is None


def test_the_counting_is_bounded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = (storage.FileInfo(f"{n}/commit.json", 1, "") for n in range(10**9))
    monkeypatch.setattr(storage, "iter_files", lambda _: endless)
    committed = start(client).json()["committed"]
    assert committed["at_least"]
    assert 1 < committed["videos"] < 10**5


@pytest.mark.parametrize("error", [OSError("/etc/x"), storage.DataError("s3://b/out/y is not")])
def test_storage_that_is_away_does_not_hide_the_state(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(_: str) -> Any:
        raise error

    monkeypatch.setattr(storage, "iter_files", broken)
    state = start(client)
    assert (state.status_code, state.json()["committed"]) == (202, None)


LOG = "Job entrypoint command failed with exit code 1, last available logs (truncated):\n"


@pytest.mark.parametrize(
    ("message", "exit_code", "told"),
    [
        ("error: input=s3://b/in/x holds no video.", 2, "input=s3://b/in/x holds no video."),
        ("error: s3://b/out/y/a.json: no", 1, "s3://b/out/y/a.json: no"),
        ("error: s3://b/in/xx: no", 1, "... no"),
        ("error: s3://models/run is broken", 1, "... is broken"),
        ("error: /srv/me/run: see http://10.0.0.1:1/x", 1, "... see ..."),
        ("error: a\nerror: b\nTraceback /x", 1, "b"),
        ("error: a\x1b[31m\u202eb\0c", 1, "a[31mbc"),
        ("error: " + "x" * 9000, 1, "x" * 500),
        ("Traceback (most recent call last)\n  /x/y.py secret", 1, None),
        ("Failed to start supervisor actor /x secret", None, None),
    ],
)
def test_a_failure_is_told_without_places_of_others(
    client: TestClient, jobs: FakeJobs, message: str, exit_code: int | None, told: str | None
) -> None:
    id_ = start(client).json()["id"]
    jobs.change(id_, status="FAILED", message=LOG + message, exit_code=exit_code)
    state = get(client, id_).json()
    assert state["status"] == "failed"
    if told is None:
        assert "secret" not in state["message"]
        assert "/" not in state["message"]
    else:
        assert state["message"] == told


def test_the_answers_are_as_the_documentation_says(client: TestClient, jobs: FakeJobs) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    paths = client.get("/openapi.json", headers=bearer("boss")).json()["paths"]

    def check(answer: httpx.Response, path: str) -> None:
        method = answer.request.method.lower()
        told = paths[path][method]["responses"][str(answer.status_code)]
        jsonschema.validate(answer.json(), told["content"]["application/json"]["schema"])

    begun = start(client)
    id_ = begun.json()["id"]
    for answer in (begun, start(client), start(client, threshold=2), start(client, key="")):
        check(answer, URL)
    check(client.get(URL, headers=bearer("first")), URL)
    for token in ("first", "second"):
        check(get(client, id_, token), URL + "/{id}")
        check(client.delete(f"{URL}/{id_}", headers=bearer(token)), URL + "/{id}")
    shown = paths[URL]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(shown["properties"]) == set(json.loads(jobs.submitted[0]["request"]))


def test_a_page_of_an_allowed_site_may_use_them(make_app: AppFactory, jobs: FakeJobs) -> None:
    site = "https://app.example.org"
    access = {"allowed_origins": [site]}
    client = client_of(make_app(tokens=TOKENS, jobs=jobs, batches=PREFIXES, access=access))
    headers = {"Origin": site, "Access-Control-Request-Method": "DELETE"}
    answer = client.options(f"{URL}/x", headers=headers)
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    assert "idempotency-key" in answer.headers["access-control-allow-headers"]
