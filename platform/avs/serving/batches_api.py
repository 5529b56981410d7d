"""What OpenAPI says of batches: bodies, answers, errors, an example that runs."""

from __future__ import annotations

from typing import Any

from avs.inference.outputs import OutputKind

__all__ = ["LIST", "ONE", "START", "STOP"]

_TEXT, _FLAG = {"type": "string"}, {"type": "boolean"}
_WHOLE = {"type": "integer", "minimum": 0}
_STATUSES = ["pending", "running", "succeeded", "failed", "stopped"]
_OUTPUTS = {"type": "array", "items": {"enum": [kind.value for kind in OutputKind]}}
_RATE = {"oneOf": [{"type": "integer", "minimum": 1, "maximum": 120}, {"const": "native"}]}
_SHARE = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_THRESHOLD = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_PREFIX = {"type": "string", "pattern": "^s3://"}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": _TEXT, "message": _TEXT},
        }
    },
}


def _told(schema: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    return {**schema, "description": text, **more}


_REQUEST = {
    "input": _told(_PREFIX, "Where the videos lie; below one of the service's own prefixes."),
    "output": _told(_PREFIX, "Where a folder of each video goes, with index.parquet, report.json."),
    "model": _told(_TEXT, "A name of GET /v1/models.", default="default"),
    "outputs": _told(_OUTPUTS, "What is written.", default=["rle_json", "png", "overlay"]),
    "threshold": _told(_THRESHOLD, "Probability above which a pixel counts.", default=0.5),
    "masks_per_s": _told(_RATE, "Masks a second, or native: of every frame.", default=1),
    "objects": _told(_FLAG, "Also tell every visible object.", default=False),
    "max_failed_ratio": _told(_SHARE, "Share of rejected videos above which the batch fails."),
}


def _object(properties: dict[str, Any], *, nullable: bool = False) -> dict[str, Any]:
    kind = ["object", "null"] if nullable else "object"
    return {"type": kind, "required": list(properties), "properties": properties}


_STATE = {
    "id": _TEXT,
    "status": {"enum": _STATUSES},
    **_REQUEST,
    "checkpoint": _told(_TEXT, "Hash of the weights."),
    "created_at": _TEXT,
    "ended_at": {"type": ["string", "null"]},
    "message": _told({"type": ["string", "null"]}, "Why it failed."),
}
_DONE = {
    "counts": _told(
        _object({"videos": _WHOLE, "ok": _WHOLE, "rejected": _WHOLE}, nullable=True),
        "Of all videos; once the batch is through.",
    ),
    "committed": _told(
        _object({"videos": _WHOLE, "at_least": _FLAG}, nullable=True),
        "Until then: videos whose outputs are whole, those of earlier batches there too.",
    ),
}
_BATCH = _object({**_STATE, **_DONE})
_BATCHES = _object({"batches": {"type": "array", "items": _object(_STATE)}})
_REASONS = {
    400: "The body is no JSON, or Idempotency-Key is missing.",
    404: "No batch of this token, or the service takes none.",
    409: "The Idempotency-Key stands for another request.",
    422: "An option cannot be used; the message says why.",
    429: "Too many requests, or batches that are not over.",
}
_ID = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "1 to 200 characters of your choice: sent again, they begin no second batch.",
    "schema": {"type": "string", "pattern": "^[ -~]{1,200}$"},
}
_URL = "http://127.0.0.1:8000/v1/batches"
_EXAMPLE = (
    "curl -H 'Content-Type: application/json' -H 'Idempotency-Key: monday' "
    """-d '{"input": "s3://BUCKET/videos/monday", "output": "s3://BUCKET/masks/monday"}' """
    f"{_URL}\ncurl {_URL}/ID\ncurl -X DELETE {_URL}/ID"
)


def _answers(*errors: int, **answers: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """``answers`` by status, as ``s200``."""
    told = {name.removeprefix("s"): answer for name, answer in answers.items()}
    told |= {str(status): (_REASONS[status], _ERROR) for status in errors}
    return {
        status: {"description": text, "content": {"application/json": {"schema": schema}}}
        for status, (text, schema) in told.items()
    }


START: dict[str, Any] = {
    "parameters": [_KEY],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input", "output"],
                    "properties": _REQUEST,
                    "additionalProperties": False,
                }
            }
        },
    },
    "responses": _answers(
        *_REASONS, s200=("It was begun before.", _BATCH), s202=("It is begun.", _BATCH)
    ),
    "x-codeSamples": [{"lang": "shell", "source": _EXAMPLE}],
}
LIST: dict[str, Any] = {"responses": _answers(404, 429, s200=("The newest 100.", _BATCHES))}
ONE: dict[str, Any] = {
    "parameters": [_ID],
    "responses": _answers(404, 429, s200=("Its state.", _BATCH)),
}
STOP: dict[str, Any] = {
    "parameters": [_ID],
    "responses": _answers(404, 429, s200=("It is over.", _BATCH), s202=("It will be.", _BATCH)),
}
