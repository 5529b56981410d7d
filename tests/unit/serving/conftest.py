"""The app with a made-up backend behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from made_up_service import FakeBackend, client_of, service_app


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def make_app(backend: FakeBackend, tmp_path: Path) -> Callable[..., FastAPI]:
    """Build the app of configs/serving/usual.yaml; keywords change it, see ``service_app``."""

    def make(**changes: Any) -> FastAPI:
        return service_app(backend, scratch=tmp_path / "scratch", **changes)

    return make


@pytest.fixture
def client(make_app: Callable[..., FastAPI]) -> Iterator[TestClient]:
    with client_of(make_app()) as client:
        yield client
