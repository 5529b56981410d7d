"""Requests about batches, to a service with a made-up job server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from made_up_service import FakeJobs, client_of

URL = "/v1/batches"
TOKENS = "first:batch,second:batch,plain:segment,boss:admin"
PREFIXES = {"input_prefixes": ["s3://b/in"], "output_prefixes": ["s3://b/out"]}
BODY = {"input": "s3://b/in/x", "output": "s3://b/out/y"}


def batch_client(make_app: Callable[..., FastAPI], jobs: FakeJobs, **changes: Any) -> TestClient:
    """A client of a service that takes batches; ``changes`` of its configuration of them."""
    batches = {**PREFIXES, "max_running": 9, "max_per_token": 8, **changes}
    return client_of(make_app(tokens=TOKENS, jobs=jobs, batches=batches))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def start(
    client: TestClient, *, token: str = "first", key: str = "k", **changes: Any
) -> httpx.Response:
    headers = {**bearer(token), "Idempotency-Key": key}
    return client.post(URL, json={**BODY, **changes}, headers=headers)


def get(client: TestClient, id_: str, token: str = "first") -> httpx.Response:
    return client.get(f"{URL}/{id_}", headers=bearer(token))
