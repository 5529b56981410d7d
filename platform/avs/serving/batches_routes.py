"""The routes of batches. Tokens, scopes and sizes are the guard's; the work is ``Batches``'."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from avs.serving.batches import Batches
from avs.serving.batches_api import LIST, ONE, START, STOP
from avs.serving.batches_request import check_key, owner_of, parse_batch
from avs.serving.choice import Choice
from avs.serving.messages import ApiError, ModelInfo
from avs.serving.tokens import Gate

__all__ = ["add_batches"]

Models = Callable[[], Awaitable[list[ModelInfo]]]


def add_batches(
    app: FastAPI, batches: Batches, *, gate: Gate, choice: Choice, models: Models
) -> None:
    """Add POST and GET /v1/batches, GET and DELETE /v1/batches/ID."""

    def owner(request: Request) -> str:
        given = request.headers.get("authorization", "").encode("latin-1", "replace")
        return owner_of(gate.identify(given))

    @app.post("/v1/batches", tags=["batches"], response_class=Response, openapi_extra=START)
    async def start_batch(request: Request) -> Response:
        """Segment all videos of an S3 prefix into another one."""
        config = batches.plan.config
        key = check_key(request.headers.getlist("idempotency-key"))
        wanted = parse_batch(await _json(request), config=config, choose_model=choice)
        if wanted.objects:
            _check_objects(wanted.model, await models())
        state, is_new = await batches.start(wanted, owner=owner(request), key=key)
        headers = {"Location": f"/v1/batches/{state['id']}"}
        return JSONResponse(state, 202 if is_new else 200, headers=headers)

    @app.get("/v1/batches", tags=["batches"], response_class=Response, openapi_extra=LIST)
    async def list_batches(request: Request) -> Response:
        """The newest batches of this token."""
        return JSONResponse({"batches": await batches.listed(owner=owner(request))})

    @app.get("/v1/batches/{id}", tags=["batches"], response_class=Response, openapi_extra=ONE)
    async def batch(request: Request) -> Response:
        """The state of a batch of this token, and what is done."""
        return JSONResponse(await batches.get(request.path_params["id"], owner=owner(request)))

    @app.delete("/v1/batches/{id}", tags=["batches"], response_class=Response, openapi_extra=STOP)
    async def stop_batch(request: Request) -> Response:
        """End a batch of this token; what is done stays."""
        id_ = request.path_params["id"]
        state, is_over = await batches.stop(id_, owner=owner(request))
        return JSONResponse(state, 200 if is_over else 202)


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())  # the guard bounds it
    except (ValueError, RecursionError):
        raise ApiError(400, "bad_request", "the body is not JSON") from None


def _check_objects(model: str, infos: list[ModelInfo]) -> None:
    if not any(info.finds_objects for info in infos if info.name == model):
        text = f"model={model} finds no objects: leave objects out"
        raise ApiError(422, "no_objects", text)
