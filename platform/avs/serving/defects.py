"""Answers where a request fails: for what was told, for what nobody thought of."""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avs.serving.messages import NO_ROOM, ApiError, error_response
from avs.serving.meters import Meters

__all__ = ["Defects", "add_error_answers"]

_logger = logging.getLogger(__name__)


def add_error_answers(app: FastAPI, meters: Meters) -> None:
    """Answer ApiErrors and errors of the router with JSON; ``meters`` count the first."""

    async def on_api_error(_: Request, error: Any) -> Response:
        meters.rejected(error.code)
        error.is_counted = True
        return error_response(error.status, error.code, error.message, error.headers)

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_broken_upload)
    app.add_exception_handler(Exception, _on_defect)


async def _on_http_error(_: Request, error: Any) -> Response:
    """Errors of the router (404, 405) and of the form parser (400)."""
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    return error_response(status.value, code, str(error.detail), error.headers)


async def _on_broken_upload(*_: Any) -> Response:
    """No defect, and nobody is there to read it."""
    return error_response(400, "bad_request", "the upload broke off")


class Defects:
    """Answers a defect behind the guard, whose headers are on every answer.

    Starlette's own handler is in front of all middleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def watched_send(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:
            if has_started or scope["type"] != "http":
                raise
            response = await _on_defect(Request(scope), error)
            await response(scope, receive, send)


async def _on_defect(_: Request, error: Exception) -> Response:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of this replica's node
        _logger.error("the disk is full: %s", error)
        later = {"Retry-After": "30"}
        return error_response(503, NO_ROOM, "the disk of the service is full; try again", later)
    _logger.error("request failed", exc_info=error)
    return error_response(500, "internal", "the request failed because of a defect in the service")
