"""The HTTP interface as an ASGI app, without Ray.

It talks to a ``Backend``; the ingress deployment gives one that calls decoders and segmenters,
tests give a made-up one. Nothing here decodes or computes, so the event loop is always free to
answer probes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from fastapi import FastAPI, Request, WebSocket
from starlette.responses import PlainTextResponse, Response

from avs import __version__
from avs.serving.answers import PartsResponse
from avs.serving.api import DESCRIPTION, SEGMENT, document
from avs.serving.batches import Batches
from avs.serving.batches_command import BatchPlan
from avs.serving.batches_routes import add_batches
from avs.serving.choice import Choice
from avs.serving.config import LimitsConfig
from avs.serving.defects import Defects, add_error_answers
from avs.serving.doors import Doors
from avs.serving.guard import Guard, Limits, Places
from avs.serving.live import LiveBackend, LiveLimits, serve_live
from avs.serving.messages import (
    ANSWERS,
    ApiError,
    ModelInfo,
    Options,
    Part,
    Upload,
)
from avs.serving.meters import Meters, timed
from avs.serving.options import parse_options
from avs.serving.pages import page_routes
from avs.serving.tokens import Gate, Scope
from avs.serving.uploads import Intake

__all__ = ["Backend", "Service", "build_app"]

_SPARE_THREADS = 8


class Backend(LiveBackend, Protocol):
    """What answers behind the routes; may raise ApiError."""

    def segment(self, upload: Upload, options: Options) -> AsyncGenerator[Part, None]:
        """Segment a video; the parts of the answer as they come."""

    async def models(self) -> list[ModelInfo]:
        """What is served."""

    async def metrics(self) -> str:
        """The metrics of all parts, as Prometheus reads them."""

    async def is_ready(self) -> bool:
        """Whether a warmed-up model waits for requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """How the app behaves: what it takes, from whom, and where it tells of it."""

    limits: LimitsConfig
    max_open_requests: int
    intake: Intake
    gate: Gate
    doors: Doors
    live: LiveLimits
    choice: Choice
    meters: Meters
    batches: BatchPlan | None = None


def build_app(backend: Backend, service: Service, batches: Batches) -> FastAPI:
    """The ASGI app; docs and page load nothing from elsewhere. ``app.state.places`` are its open
    requests."""
    app = FastAPI(
        title="avs",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's page loads scripts from another site
        redoc_url=None,
        routes=[*page_routes()],
        lifespan=partial(_with_threads, num_threads=service.max_open_requests + _SPARE_THREADS),
    )
    limits = Limits(
        max_body_bytes=service.limits.max_body_bytes,
        upload_timeout_s=service.limits.upload_timeout_s,
    )
    app.add_middleware(Defects)
    places = Places(service.max_open_requests, meters=service.meters)
    app.state.places = places
    app.add_middleware(
        Guard,
        limits=limits,
        places=places,
        gate=service.gate,
        doors=service.doors,
        meters=service.meters,
    )

    add_error_answers(app, service.meters)
    _add_probes(app, backend, places)
    _add_segment(app, backend, service)
    _add_models(app, backend, service)
    _add_live(app, backend, service)
    add_batches(
        app, batches, gate=service.gate, choice=service.choice, models=lambda: backend.models()
    )
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _with_threads(_: FastAPI, *, num_threads: int) -> AsyncIterator[None]:
    """Threads for what blocks, one for each request: a name server that never answers holds one."""
    threads = ThreadPoolExecutor(num_threads)
    asyncio.get_running_loop().set_default_executor(threads)
    yield
    threads.shutdown(wait=False)


def _add_probes(app: FastAPI, backend: Backend, places: Places) -> None:
    @app.get("/healthz", tags=["probes"])
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["probes"])
    async def readyz() -> dict[str, str]:
        """A model is loaded and warmed up (else 503), and new requests are let in."""
        if places.is_closed:
            code = "stopping" if places.num_open else "stopped"
            raise ApiError(503, code, f"{places.num_open} requests are still open")
        if not await backend.is_ready():
            raise ApiError(503, "not_ready", "the model is not loaded yet")
        return {"status": "ready"}

    @app.get("/metrics", tags=["probes"], response_class=PlainTextResponse)
    async def metrics() -> str:
        """The metrics of all parts, as Prometheus reads them; needs the scope admin."""
        return await backend.metrics()


def _add_segment(app: FastAPI, backend: Backend, service: Service) -> None:
    @app.post("/v1/segment", tags=["segment"], response_class=Response, openapi_extra=SEGMENT)
    async def segment(request: Request) -> Response:
        """Masks of what sounds in a video."""

        def parsed(given: Mapping[str, Any]) -> Options:
            return parse_options(
                given, max_duration_s=service.limits.max_duration_s, choose_model=service.choice
            )

        async with AsyncExitStack() as stack:
            with timed(service.meters, "upload"):
                received = service.intake.received(request, check=parsed)
                upload, given = await stack.enter_async_context(received)
            options = parsed(given)

            def told(status: int, reason: str) -> None:
                service.meters.answered(status, options.format)
                if reason:
                    service.meters.rejected(reason)

            return PartsResponse(
                backend.segment(upload, options),
                name=upload.name,
                options=options,
                timeout_s=service.limits.request_timeout_s,
                cleanup=stack.pop_all(),
                told=told,
            )


def _add_models(app: FastAPI, backend: Backend, service: Service) -> None:
    @app.get("/v1/models", tags=["models"])
    async def models() -> dict[str, Any]:
        """What is served, with model cards and metrics, and what a request may cost."""
        return {
            "models": [info.to_json() for info in await backend.models()],
            "limits": {
                "max_body_bytes": service.limits.max_body_bytes,
                "max_duration_s": service.limits.max_duration_s,
                "max_pixels": service.limits.max_pixels,
                "max_frames": service.limits.max_frames,
                "formats": list(ANSWERS),
                "live": True,
            },
        }


def _add_live(app: FastAPI, backend: Backend, service: Service) -> None:
    @app.websocket("/v1/live")
    async def live(websocket: WebSocket) -> None:
        async def model(name: str | None) -> ModelInfo:
            chosen = service.choice(name)
            return next(info for info in await backend.models() if info.name == chosen)

        def authorise(token: str | None) -> Any:
            found = service.gate.identify(b"Bearer " + (token or "").encode("utf-8", "replace"))
            service.gate.check_scope(found, Scope.SEGMENT)
            return service.gate.counted(found)

        await serve_live(
            websocket,
            backend=backend,
            limits=service.live,
            authorise=authorise,
            models=model,
        )
