"""What passes between the parts of the service, and how an answer or an error looks to a client.

Refusals of decoders and segmenters are values, not exceptions: they cross Ray without a traceback,
and only this module's few fields can reach a client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from avs.inference.outputs import OutputKind

__all__ = [
    "ANSWERS",
    "NO_ROOM",
    "RETRY_AFTER_S",
    "STREAM",
    "Answer",
    "ApiError",
    "Head",
    "LiveAnswer",
    "LiveRequest",
    "ModelInfo",
    "Options",
    "Part",
    "Refusal",
    "Upload",
    "error_json",
    "error_response",
]

# What a request can ask for -> media type and name of the answer; "*" is the client's own name.
STREAM = "stream"
RETRY_AFTER_S = 5  # with each 429 and 503 that says no other time


@dataclass(frozen=True, slots=True)
class Answer:
    """How a format is sent: its media type, and for downloads what follows the video's name."""

    media_type: str
    suffix: str = ""


ANSWERS = {
    OutputKind.RLE_JSON.value: Answer("application/json"),
    OutputKind.RLE_PARQUET.value: Answer("application/vnd.apache.parquet", "-masks.parquet"),
    OutputKind.PNG.value: Answer("application/zip", "-masks.zip"),
    OutputKind.NPZ.value: Answer("application/octet-stream", "-masks.npz"),
    OutputKind.OVERLAY.value: Answer("video/mp4", "-overlay.mp4"),
    OutputKind.THUMBNAILS.value: Answer("image/jpeg", "-thumbnails.jpg"),
    OutputKind.MATTE.value: Answer("video/quicktime", "-matte.mov"),
    STREAM: Answer("application/x-ndjson"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a client asks for.

    format: a key of ANSWERS. masks_per_s: None = one for every frame. threshold: probability in
    0..1. objects: tell every visible object. model: a served name.
    """

    format: str
    masks_per_s: int | None
    threshold: float
    max_duration_s: float
    objects: bool
    model: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A received video: ``name`` is what its sender calls it; ``data`` or, if large, ``uri``."""

    name: str
    num_bytes: int
    data: bytes | None = None
    uri: str | None = None


NO_ROOM = "no_room"  # the disk of a replica's node is full: another one may have room


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request cannot be answered: HTTP status, a code for programs, a reason for people."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Head:
    """First part of an answer: the video can be used, and for all but streams all is done.

    checkpoint: hash of the weights. num_bytes: what follows, None where it is not known yet.
    """

    checkpoint: str
    num_bytes: int | None


# An answer comes in parts: a Head or a Refusal, then bytes; a Refusal may also end a stream.
Part = Head | Refusal | bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A served checkpoint, without where it lies.

    network: a name of ``avs.models.MODELS``. num_frames, image_size_px: T and S of a window.
    share: of the requests that name no model. checkpoint: hash of weights and configuration.
    """

    name: str
    is_default: bool
    share: float
    checkpoint: str
    network: str
    num_frames: int
    image_size_px: int
    class_names: tuple[str, ...]
    finds_objects: bool
    metrics: Mapping[str, Any]
    card: str

    def to_json(self) -> dict[str, Any]:
        """As listed by ``GET /v1/models``."""
        return {
            "name": self.name,
            "default": self.is_default,
            "share": self.share,
            "checkpoint": self.checkpoint,
            "network": self.network,
            "num_frames": self.num_frames,
            "image_size_px": self.image_size_px,
            "classes": list(self.class_names),
            "finds_objects": self.finds_objects,
            "metrics": dict(self.metrics),
            "card": self.card,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRequest:
    """One picture of a camera with what came before it.

    jpeg: the newest picture. past: uint8 [n, S, S, 3], n < T, one a second, oldest first. samples:
    float32 16 kHz mono that ends with the picture, at most n + 1 seconds.
    """

    model: str
    jpeg: bytes
    past: NDArray[np.uint8]
    samples: NDArray[np.float32]
    threshold: float
    objects: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveAnswer:
    """frame: the picture as uint8 [S, S, 3], for later windows. mask: as in masks.json, without
    its time. height_px, width_px: of the picture and so of the mask."""

    frame: NDArray[np.uint8]
    mask: dict[str, Any]
    height_px: int
    width_px: int


@dataclass(eq=False)  # not frozen: Python sets the traceback of an exception
class ApiError(Exception):
    """Ends a request with an error answer."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    is_counted: bool = False  # among the metrics


def error_json(code: str, message: str) -> dict[str, Any]:
    """``{"error": {"code", "message"}}``."""
    return {"error": {"code": code, "message": message}}


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """:func:`error_json` as an answer."""
    body = json.dumps(error_json(code, message))
    wait = {"Retry-After": f"{RETRY_AFTER_S}"} if status in (429, 503) else {}
    told = {**wait, **(headers or {})}
    return Response(body, status, headers=told, media_type="application/json")
