"""The HTTP interface as an ASGI app, without Ray: routes, names, errors.

It talks to a ``Backend``; the ingress deployment gives one that calls the segmenter, tests give a
made-up one. Nothing here decodes or computes, so the event loop is always free to answer probes.
"""

from __future__ import annotations

import asyncio
import logging
import re
from http import HTTPStatus
from typing import Annotated, Any, Protocol
from urllib.parse import quote

from fastapi import FastAPI, File, Form, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from avs import __version__
from avs.inference.outputs import OutputKind
from avs.serving.limits import Guard, Limits
from avs.serving.messages import (
    FORMATS,
    Answer,
    ApiError,
    Refusal,
    error_response,
    parse_format,
)

__all__ = ["Backend", "build_app", "client_name"]

_MAX_NAME_CHARS = 200
# Annotations of routes are read from the module: a local name would silently not be found.
_KNOWN = " or ".join(kind.value for kind in FORMATS)
_OBJECTS = "Also tell every visible object and how much it sounds, and outline the silent ones."
_PARAMETERS = ("format", "objects")
_logger = logging.getLogger(__name__)


class Backend(Protocol):
    """What answers behind the routes; may raise ApiError."""

    async def segment(
        self, data: bytes, *, name: str, kind: OutputKind, objects: bool
    ) -> Answer | Refusal:
        """Segment a video given as the bytes of its file; ``objects``: tell silent ones too."""

    async def is_ready(self) -> bool:
        """Whether a warmed-up model waits for requests."""


def build_app(backend: Backend, limits: Limits) -> FastAPI:
    """The ASGI app: ``POST /v1/segment``, ``GET /healthz``, ``GET /readyz``, ``/openapi.json``."""
    app = FastAPI(
        title="avs",
        version=__version__,
        docs_url=None,  # FastAPI's page loads scripts from another site
        redoc_url=None,
        form_limits={"max_files": 1, "max_fields": 4, "max_part_size": 1024},
    )
    app.add_middleware(Guard, limits=limits)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_defect)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """A model is loaded and warmed up (else 503)."""
        if not await backend.is_ready():
            raise ApiError(503, "not_ready", "the model is not loaded yet")
        return {"status": "ready"}

    @app.post("/v1/segment", response_class=Response)
    async def segment(
        request: Request,
        file: Annotated[UploadFile, File(description="The video.")],
        in_query: Annotated[str | None, Query(alias="format", description=_KNOWN)] = None,
        in_form: Annotated[str | None, Form(alias="format", description=_KNOWN)] = None,
        objects: Annotated[bool, Query(description=_OBJECTS)] = False,
        objects_in_form: Annotated[bool, Form(alias="objects", description=_OBJECTS)] = False,
    ) -> Response:
        """Masks of what sounds in a video, once a second: as JSON, or drawn over the video."""
        _check_parameters(request)
        kind = parse_format(in_query or in_form or OutputKind.RLE_JSON.value)
        name = client_name(file.filename)
        data = await file.read()
        try:
            async with asyncio.timeout(limits.request_timeout_s):
                answer = await backend.segment(
                    data, name=name, kind=kind, objects=objects or objects_in_form
                )
        except TimeoutError:
            seconds = f"{limits.request_timeout_s:g} s"
            raise ApiError(504, "timeout", f"{name} was not done within {seconds}") from None
        if isinstance(answer, Refusal):
            raise ApiError(answer.status, answer.code, answer.message)
        return Response(answer.body, media_type=FORMATS[kind], headers=_headers(kind, name))

    return app


def _check_parameters(request: Request) -> None:
    """A misspelt one would otherwise be a plain answer."""
    for name in request.query_params:
        if name not in _PARAMETERS:
            shown, known = client_name(name), " and ".join(_PARAMETERS)
            raise ApiError(422, "unknown_parameter", f"{shown!r} is not known. Known: {known}.")


def client_name(filename: str | None) -> str:
    """What a client calls its file, safe to show: no folders, no control characters, not endless.

    >>> client_name("../../C:\\\\clips\\\\a\\r\\nb.mp4")
    'ab.mp4'
    """
    base = re.split(r"[/\\]", filename or "")[-1]
    shown = "".join(c for c in base.encode("utf-8", "ignore").decode() if c.isprintable())
    return shown.strip(" .")[:_MAX_NAME_CHARS] or "file"


def _headers(kind: OutputKind, name: str) -> dict[str, str]:
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    if kind is OutputKind.OVERLAY:
        stem = name.rsplit(".", 1)[0] or "file"
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", stem)
        headers["Content-Disposition"] = (
            f'attachment; filename="{plain}-overlay.mp4"; '
            f"filename*=UTF-8''{quote(stem, safe='')}-overlay.mp4"
        )
    return headers


async def _on_api_error(_: Request, error: Any) -> Response:
    return error_response(error.status, error.code, error.message, error.headers)


async def _on_invalid(_: Request, error: Any) -> Response:
    """The first invalid field in words; never the input itself, which may be a whole file."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or "body"
    if first["type"] == "missing":
        hint = ": send the video as multipart field 'file'" if field == "file" else ""
        return error_response(422, "missing_field", f"{field} is missing{hint}")
    if field == "file":
        return error_response(422, "invalid_field", "file must be a file part with a file name")
    return error_response(422, "invalid_field", f"{field}: {first['msg']}")


async def _on_http_error(_: Request, error: Any) -> Response:
    """Errors of the router (404, 405) and of the form parser (400)."""
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    return error_response(status.value, code, str(error.detail), error.headers)


async def _on_defect(_: Request, error: Exception) -> Response:
    _logger.error("request failed", exc_info=error)
    return error_response(500, "internal", "the request failed because of a defect in the service")
