"""Batches of the Python client: what it sends, and how it waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from avs.client import Client, ServiceError

STATE = {"id": "batch-1", "status": "running"}


def _client(answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> Client:
    options = {"sleep": lambda _: None, **options}
    transport = httpx.MockTransport(answer)
    return Client("http://service.test:8000", transport=transport, token="t", **options)


def test_what_was_not_given_is_not_sent() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(202, json=STATE)

    with _client(answer) as client:
        assert client.start_batch("s3://b/in", "s3://b/out", key="monday") == STATE
        client.start_batch("s3://b/in", "s3://b/out", outputs=("png",), objects=False)
        client.start_batch("s3://b/in", "s3://b/out")
    assert json.loads(asked[0].content) == {"input": "s3://b/in", "output": "s3://b/out"}
    assert (asked[0].method, asked[0].url.path) == ("POST", "/v1/batches")
    assert asked[0].headers["authorization"] == "Bearer t"
    assert json.loads(asked[1].content)["outputs"] == ["png"]
    assert json.loads(asked[1].content)["objects"] is False
    keys = [request.headers["idempotency-key"] for request in asked]
    assert keys[0] == "monday"
    assert len(set(keys)) == 3


def test_a_start_whose_answer_was_lost_is_sent_again_with_the_same_key() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx.ReadError("reset")
        return httpx.Response(503 if len(keys) == 2 else 200, json=STATE)

    with _client(answer) as client:
        client.start_batch("s3://b/in", "s3://b/out")
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_waiting_tells_every_state_and_ends_with_the_last() -> None:
    states = [{"id": "b", "status": s} for s in ("pending", "running", "running", "failed")]
    left, pauses, seen = iter(states), list[float](), list[Any]()

    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("GET", "/v1/batches/b")
        return httpx.Response(200, json=next(left))

    with _client(answer, sleep=pauses.append) as client:
        assert client.wait_batch("b", every_s=7, progress=seen.append)["status"] == "failed"
    assert seen == states
    assert pauses == [7, 7, 7]


def test_waiting_may_be_bounded() -> None:
    with (
        _client(lambda _: httpx.Response(200, json=STATE)) as client,
        pytest.raises(TimeoutError, match="batch-1 is running after 3 s"),
    ):
        client.wait_batch("batch-1", every_s=5, timeout_s=3)


def test_stopping_names_one_batch_and_nothing_else() -> None:
    paths: list[tuple[str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append((request.method, request.url.raw_path))
        return httpx.Response(202, json=STATE)

    with _client(answer) as client:
        client.stop_batch("batch-1")
        client.stop_batch("../segment?a=b")
    assert paths == [
        ("DELETE", b"/v1/batches/batch-1"),
        ("DELETE", b"/v1/batches/..%2Fsegment%3Fa%3Db"),
    ]


def test_refusals_and_foreign_answers_are_errors() -> None:
    refusal = {"error": {"code": "unknown_batch", "message": "no"}}
    with (
        _client(lambda _: httpx.Response(404, json=refusal)) as client,
        pytest.raises(ServiceError) as caught,
    ):
        client.batch("b")
    assert (caught.value.status, caught.value.code) == (404, "unknown_batch")
    for foreign in ([], {}, {"id": "b"}, "x"):
        with (
            _client(lambda _, plain=foreign: httpx.Response(200, json=plain)) as client,
            pytest.raises(ServiceError, match="not what the service sends"),
        ):
            client.batch("b")
