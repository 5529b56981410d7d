"""Batches over HTTP: begun once, told of, stopped, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from batch_calls import BODY, PREFIXES, TOKENS, URL, batch_client, bearer, get, start
from fastapi import FastAPI
from fastapi.testclient import TestClient
from made_up_service import HASH, FakeJobs, client_of, code_of, error_of

from avs import storage
from avs.serving.batches_jobs import JobServerAwayError

AppFactory = Callable[..., FastAPI]


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs()


@pytest.fixture
def make_client(make_app: AppFactory, jobs: FakeJobs) -> Callable[..., TestClient]:
    return partial(batch_client, make_app, jobs)


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client()


@pytest.fixture(autouse=True)
def no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing lies in the output."""
    monkeypatch.setattr(storage, "iter_files", lambda _: iter(()))


def test_a_batch_is_begun_and_told_of(client: TestClient, jobs: FakeJobs) -> None:
    begun = start(client, masks_per_s=4)
    assert begun.status_code == 202
    state = begun.json()
    assert begun.headers["location"] == f"{URL}/{state['id']}"
    assert state == {
        **BODY,
        "id": state["id"],
        "status": "pending",
        "model": "default",
        "outputs": ["overlay", "png", "rle_json"],
        "threshold": 0.5,
        "masks_per_s": 4,
        "objects": False,
        "max_failed_ratio": None,
        "checkpoint": HASH,
        "created_at": "2001-09-09T01:46:40+00:00",
        "ended_at": None,
        "message": None,
        "counts": None,
        "committed": {"videos": 0, "at_least": False},
    }
    assert get(client, state["id"]).json() == state
    [sent] = jobs.submitted
    assert sent["id"] == state["id"]
    assert 'checkpoint="s3://models/run"' in sent["command"]
    assert sent["num_cpus"] == 0.1


def test_sent_again_it_is_the_same_batch(client: TestClient, jobs: FakeJobs) -> None:
    first = start(client)
    jobs.change(first.json()["id"], status="RUNNING")
    again = start(client, input="s3://b/in/x/")
    assert (again.status_code, again.json()["status"]) == (200, "running")
    assert again.json()["id"] == first.json()["id"]
    jobs.change(first.json()["id"], status="SUCCEEDED", ended_s=2e9)
    assert start(client).status_code == 200
    assert len(jobs.submitted) == 1


def test_a_key_stands_for_one_request_of_one_token(client: TestClient, jobs: FakeJobs) -> None:
    first = start(client)
    assert code_of(start(client, threshold=0.4)) == (409, "key_in_use")
    other = start(client, token="second", threshold=0.4)
    assert other.status_code == 202
    assert other.json()["id"] != first.json()["id"]
    assert start(client, key="K").status_code == 202


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_what_failed_or_was_stopped_is_begun_again(
    client: TestClient, jobs: FakeJobs, status: str
) -> None:
    first = start(client).json()["id"]
    jobs.change(first, status=status, ended_s=2e9)
    again = start(client)
    assert again.status_code == 202
    assert again.json()["id"] == first.removesuffix("1") + "2"
    assert code_of(start(client, threshold=0.4)) == (409, "key_in_use")
    assert get(client, first).json()["status"] == status.lower()
    assert start(client).json()["id"] == again.json()["id"]


def test_two_replicas_at_the_same_moment_begin_one_batch(
    make_client: Callable[..., TestClient], jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = start(make_client()).json()["id"]
    find, seen = jobs.find, []

    def not_yet(id_: str) -> Any:
        seen.append(id_)
        return None if len(seen) == 1 else find(id_)

    monkeypatch.setattr(jobs, "find", not_yet)
    late = start(make_client())
    assert (late.status_code, late.json()["id"]) == (200, there)
    seen.clear()
    assert code_of(start(make_client(), threshold=0.4)) == (409, "key_in_use")
    assert len(jobs.submitted) == 1


def test_a_batch_belongs_to_its_token(client: TestClient, jobs: FakeJobs) -> None:
    mine = start(client).json()["id"]
    told = set()
    for id_ in (mine, "batch-" + "0" * 32 + "-1", "raysubmit_x", "..", "a" * 5000, "%00", "x;y"):
        for answer in (
            get(client, id_, "second"),
            client.delete(f"{URL}/{id_}", headers=bearer("second")),
        ):
            if id_ != "..":  # a client takes it away
                assert answer.status_code == 404
                told.add(answer.text)
    assert len(told) == 1
    assert "stop" not in jobs.calls
    assert client.get(URL, headers=bearer("second")).json() == {"batches": []}
    [listed] = client.get(URL, headers=bearer("first")).json()["batches"]
    assert listed["id"] == mine
    assert get(client, mine).status_code == 200


def test_only_what_looks_like_a_batch_is_asked_of_the_job_server(
    client: TestClient, jobs: FakeJobs
) -> None:
    for id_ in ("raysubmit_x", "batch-1", "batch-" + "g" * 32 + "-1", "batch-" + "0" * 32 + "-0"):
        assert get(client, id_).status_code == 404
    assert jobs.calls == []


def test_the_newest_are_listed_first(client: TestClient) -> None:
    ids = [start(client, key=f"k{n}").json()["id"] for n in range(3)]
    listed = client.get(URL, headers=bearer("first")).json()["batches"]
    assert [one["id"] for one in listed] == ids[::-1]
    assert "counts" not in listed[0]


def test_stopping_ends_it_once_and_can_be_repeated(client: TestClient, jobs: FakeJobs) -> None:
    id_ = start(client).json()["id"]
    for _ in range(2):
        answer = client.delete(f"{URL}/{id_}", headers=bearer("first"))
        assert (answer.status_code, answer.json()["status"]) == (200, "stopped")
    assert jobs.calls.count("stop") == 1


def test_one_that_takes_its_time_to_end_is_told_so(
    client: TestClient, jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = start(client).json()["id"]
    jobs.change(id_, status="RUNNING")
    monkeypatch.setattr(jobs, "stop", lambda _: None)
    answer = client.delete(f"{URL}/{id_}", headers=bearer("first"))
    assert (answer.status_code, answer.json()["status"]) == (202, "running")


def test_a_token_and_the_service_have_a_number_of_batches(
    make_client: Callable[..., TestClient], jobs: FakeJobs
) -> None:
    client = make_client(max_running=2, max_per_token=1)
    first = start(client).json()["id"]
    refused = start(client, key="other")
    assert code_of(refused) == (429, "too_many_batches")
    assert int(refused.headers["retry-after"]) > 0
    assert start(client).status_code == 200  # the one that runs
    assert start(client, token="second").status_code == 202
    jobs.change(first, status="SUCCEEDED", ended_s=2e9)
    assert start(client, key="other").status_code == 202
    full = make_client(max_running=1, max_per_token=1)
    jobs.change(start(full).json()["id"], status="STOPPED")
    assert code_of(start(full, key="third")) == (429, "too_many_batches")


@pytest.mark.parametrize("key", [None, "", "x" * 201, "a\tb", "\u00e9".encode()])
def test_a_key_is_needed(client: TestClient, jobs: FakeJobs, key: Any) -> None:
    headers: dict[str, Any] = bearer("first") | ({} if key is None else {"Idempotency-Key": key})
    status, code, message = error_of(client.post(URL, json=BODY, headers=headers))
    assert (status, code) == (400, "no_idempotency_key")
    assert "Idempotency-Key" in message
    assert jobs.calls == []


def test_two_keys_are_none(client: TestClient) -> None:
    headers = [*bearer("first").items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert code_of(client.post(URL, json=BODY, headers=headers)) == (400, "no_idempotency_key")


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 50_000, b"\xff", b"file=@a"])
def test_a_body_that_is_no_json_is_refused(client: TestClient, body: bytes) -> None:
    headers = {**bearer("first"), "Idempotency-Key": "k"}
    assert code_of(client.post(URL, content=body, headers=headers)) == (400, "bad_request")


def test_a_large_body_is_not_read(client: TestClient, jobs: FakeJobs) -> None:
    headers = {**bearer("first"), "Idempotency-Key": "k"}
    answer = client.post(URL, content=b"x" * 200_000, headers=headers)
    assert code_of(answer) == (413, "too_large")


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_the_scope_batch_opens_it_and_no_other(client: TestClient, method: str) -> None:
    url = URL if method != "DELETE" else f"{URL}/x"
    for token in ("plain", "boss"):
        answer = client.request(method, url, headers=bearer(token))
        assert code_of(answer) == (403, "forbidden")
    assert code_of(client.request(method, url)) == (401, "unauthorized")
    answer = client.post("/v1/segment", files={"file": b"v"}, headers=bearer("first"))
    assert code_of(answer) == (403, "forbidden")


def test_every_request_counts_against_the_rate(make_app: AppFactory, jobs: FakeJobs) -> None:
    app = make_app(tokens=TOKENS, jobs=jobs, batches=PREFIXES, access={"per_minute": 3})
    client = client_of(app)
    answers = [client.get(URL, headers=bearer("first")).status_code for _ in range(4)]
    assert answers == [200, 200, 200, 429]


def test_without_prefixes_none_are_taken_and_the_cure_is_told(
    make_app: AppFactory, jobs: FakeJobs
) -> None:
    client = client_of(make_app(tokens=TOKENS, jobs=jobs))
    answers = [start(client), get(client, "batch-" + "0" * 32 + "-1")]
    answers += [client.get(URL, headers=bearer("first"))]
    for answer in answers:
        status, code, message = error_of(answer)
        assert (status, code) == (404, "no_batches")
        assert "batches.input_prefixes" in message
    assert jobs.calls == []


def test_a_place_of_others_is_refused_before_the_job_server_is_asked(
    client: TestClient, jobs: FakeJobs
) -> None:
    assert code_of(start(client, input="s3://b/inner"))[0] == 403
    assert code_of(start(client, output="/etc"))[0] == 422
    assert code_of(start(client, model="other")) == (422, "unknown_model")
    assert code_of(start(client, objects=True)) == (422, "no_objects")
    assert jobs.calls == []


def test_a_job_server_that_is_away_is_told_and_nothing_of_it(
    client: TestClient, jobs: FakeJobs
) -> None:
    id_ = start(client).json()["id"]
    jobs.away = JobServerAwayError("http://10.0.0.1:8265 token abc")
    for answer in (
        start(client),
        get(client, id_),
        client.get(URL, headers=bearer("first")),
        client.delete(f"{URL}/{id_}", headers=bearer("first")),
    ):
        status, code, message = error_of(answer)
        assert (status, code) == (503, "batches_away")
        assert int(answer.headers["retry-after"]) > 0
        assert "10.0.0.1" not in message
    jobs.away = None
    assert get(client, id_).status_code == 200
