"""What OpenAPI says beyond the routes: bodies, formats, errors, examples that run."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from avs.serving.messages import ANSWERS
from avs.serving.options import OPTIONS, openapi_parameters

__all__ = ["DESCRIPTION", "SEGMENT", "document"]

DESCRIPTION = (
    "Audio-visual segmentation: pixel masks of the objects that sound in a video. Where the "
    "service has tokens, send `Authorization: Bearer TOKEN`. Errors are "
    '`{"error": {"code", "message"}}`; after 429 and 503 wait as Retry-After says. Pictures of a '
    "camera with its sound go over the WebSocket /v1/live. Whole prefixes of S3 are batches: "
    "they go on without the client, and need the scope batch."
)

_ERRORS = {
    400: "The request cannot be read.",
    401: "A token is missing or not known.",
    403: "Not with this token, from this page or under this name; or an address that is not taken.",
    408: "The upload took too long.",
    413: "The request is too large.",
    415: "Not a video or sound format that is taken.",
    422: "An option or the video cannot be used; the message says why.",
    429: "Too many requests.",
    500: "A defect in the service.",
    503: "No decoder or segmenter is there.",
    504: "Not done in time.",
}
_PROPERTIES = {name: {**schema, "description": text} for name, (schema, text) in OPTIONS.items()}


def _object(*optional: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """An object of these keys, all of them there but the ``optional`` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_TEXT, _FLAG = {"type": "string"}, {"type": "boolean"}
_WHOLE, _NUMBER = {"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0}
_ANY = {"type": "object"}
_ERROR = _object(error=_object(code=_TEXT, message=_TEXT))
_RLE = _object(size=_list(_WHOLE), counts=_TEXT)
_VISIBLE = _object(category=_TEXT, score=_NUMBER, sounding=_NUMBER, rle=_RLE)
_MASK = _object(
    "visible",
    time_s=_NUMBER,
    objects=_list(_object(**{"class": _WHOLE}, category=_TEXT, rle=_RLE)),
    visible=_list(_VISIBLE),
)
_TRACK = _object(
    format=_WHOLE,
    video=_TEXT,
    height=_WHOLE,
    width=_WHOLE,
    duration_s=_NUMBER,
    masks_per_s=_WHOLE,
    classes=_list(_TEXT),
    warnings=_list(_TEXT),
    masks=_list(_MASK),
)
_MODEL = _object(
    name=_TEXT,
    default=_FLAG,
    share=_NUMBER,
    checkpoint=_TEXT,
    network=_TEXT,
    num_frames=_WHOLE,
    image_size_px=_WHOLE,
    classes=_list(_TEXT),
    finds_objects=_FLAG,
    metrics=_ANY,
    card=_TEXT,
)
_LIMITS = _object(
    max_body_bytes=_WHOLE,
    max_duration_s=_NUMBER,
    max_pixels=_WHOLE,
    max_frames=_WHOLE,
    formats=_list(_TEXT),
    live=_FLAG,
)
_ANSWERS = {
    "/healthz": _object(status=_TEXT),
    "/readyz": _object(status=_TEXT),
    "/v1/models": _object(models=_list(_MODEL), limits=_LIMITS),
}
_WITH_OPTIONS = ("/v1/segment", "/v1/batches")
_URL = "http://127.0.0.1:8000/v1/segment"
_EXAMPLES = (
    f"curl -F file=@clip.mp4 {_URL}",
    f"curl -F file=@clip.mp4 -o overlay.mp4 '{_URL}?format=overlay'",
    f"curl -F file=@clip.mp4 -N '{_URL}?format=stream&masks_per_s=4'",
    "curl -H 'Content-Type: application/json' "
    f"""-d '{{"url": "https://example.org/clip.mp4"}}' {_URL}""",
)


def _content(media_type: str) -> dict[str, Any]:
    is_json = media_type == "application/json"
    return {"schema": _TRACK if is_json else {"type": "string", "format": "binary"}}


def _errors(*statuses: int) -> dict[str, Any]:
    return {
        str(status): {
            "description": _ERRORS[status],
            "content": {"application/json": {"schema": _ERROR}},
        }
        for status in statuses
    }


SEGMENT: dict[str, Any] = {
    "parameters": openapi_parameters(),
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}, **_PROPERTIES},
                    "additionalProperties": False,
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["url"],
                    "properties": {"url": {"type": "string", "format": "uri"}, **_PROPERTIES},
                    "additionalProperties": False,
                }
            },
        },
    },
    "responses": {
        "200": {
            "description": "The masks, as `format` says.",
            "content": {a.media_type: _content(a.media_type) for a in ANSWERS.values()},
        },
        **_errors(*_ERRORS),
    },
    "x-codeSamples": [{"lang": "shell", "source": "\n".join(_EXAMPLES)}],
}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the errors that every route can answer; made once."""
    if app.openapi_schema:
        return app.openapi_schema
    plain = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    plain["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    plain["security"] = [{"token": []}, {}]
    for path, operations in plain["paths"].items():
        for operation in operations.values():
            if path not in _WITH_OPTIONS:
                operation["responses"].pop("422", None)  # FastAPI's own, which never comes
            answers = {**_errors(401, 403, 408, 413, 500, 503), **operation["responses"]}
            if path in _ANSWERS:
                answers["200"]["content"]["application/json"]["schema"] = _ANSWERS[path]
            operation["responses"] = answers
    app.openapi_schema = plain
    return plain
