"""The app with a made-up backend behind it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from avs.inference.outputs import OutputKind
from avs.serving.app import build_app
from avs.serving.limits import Limits
from avs.serving.messages import Answer, Refusal

TOKEN = "t0ken"


@dataclass
class FakeBackend:
    """Remembers what it was asked and answers what it is told to."""

    answer: Answer | Refusal | Exception = field(default_factory=lambda: Answer(b'{"masks": []}'))
    takes_s: float = 0.0
    is_up: bool = True
    calls: list[tuple[bytes, str, OutputKind, bool]] = field(default_factory=list)

    async def segment(
        self, data: bytes, *, name: str, kind: OutputKind, objects: bool
    ) -> Answer | Refusal:
        self.calls.append((data, name, kind, objects))
        await asyncio.sleep(self.takes_s)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def is_ready(self) -> bool:
        return self.is_up


AppFactory = Callable[..., FastAPI]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def make_app(backend: FakeBackend) -> AppFactory:
    """Build the app; keywords change the limits, ``tokens`` are given in plain."""

    def make(*, tokens: tuple[str, ...] = (), **changes: float) -> FastAPI:
        values: dict[str, float] = {
            "max_body_bytes": 10_000,
            "max_open_requests": 2,
            "upload_timeout_s": 5.0,
            "request_timeout_s": 5.0,
        }
        digests = tuple(hashlib.sha256(t.encode()).digest() for t in tokens)
        return build_app(backend, Limits(**{**values, **changes}, token_digests=digests))  # type: ignore[arg-type]

    return make


@pytest.fixture
def client(make_app: AppFactory) -> Iterator[TestClient]:
    with TestClient(make_app(), raise_server_exceptions=False) as client:
        yield client
