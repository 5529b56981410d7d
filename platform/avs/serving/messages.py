"""What passes between the HTTP side and the segmenter, and how an error looks to a client.

Refusals of the segmenter are values, not exceptions: they cross Ray without a traceback, and only
this module's few fields can reach a client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.responses import Response

from avs.inference.outputs import OutputKind

__all__ = ["FORMATS", "Answer", "ApiError", "Refusal", "error_response", "parse_format"]

# What a request can ask for -> the media type of the answer.
FORMATS = {OutputKind.RLE_JSON: "application/json", OutputKind.OVERLAY: "video/mp4"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The finished body of a 200 answer."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a video cannot be segmented: HTTP status, a code for programs, a reason for people."""

    status: int
    code: str
    message: str


@dataclass(eq=False)  # not frozen: Python sets the traceback of an exception
class ApiError(Exception):
    """Ends a request with an error answer."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


def parse_format(text: str) -> OutputKind:
    """The requested format.

    Raises:
        ApiError: it is not known; the message names those that are.
    """
    for kind in FORMATS:
        if kind.value == text:
            return kind
    known = ", ".join(kind.value for kind in FORMATS)
    raise ApiError(422, "unknown_format", f"format={text[:40]!r} is not known. Known: {known}.")


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """``{"error": {"code", "message"}}``."""
    body = json.dumps({"error": {"code": code, "message": message}})
    return Response(body, status, headers=headers, media_type="application/json")
