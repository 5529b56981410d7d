"""What a client may ask for, as query parameters, form fields or JSON: one table for all three.

The same table is what /docs shows, so that none is known to only one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from avs.errors import ConfigError
from avs.inference.outputs import parse_masks_per_s
from avs.serving.messages import ANSWERS, ApiError, Options
from avs.serving.names import client_name

__all__ = ["OPTIONS", "openapi_parameters", "parse_options"]

_MAX_SHOWN = 60

# Name -> (JSON schema, what it is for).
OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "format": (
        {"type": "string", "enum": list(ANSWERS), "default": "rle_json"},
        "rle_json: COCO run-lengths; png: a zip of indexed pictures; npz: for NumPy; overlay: the "
        "video with its masks and sound; matte: alpha for video editors; stream: a line of JSON "
        "per window as soon as it is ready.",
    ),
    "masks_per_s": (
        {"type": "string", "pattern": "^([1-9][0-9]{0,2}|native)$", "default": "1"},
        "Masks a second, at most 120, or native: one for every frame.",
    ),
    "threshold": (
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": 0.5},
        "Probability above which a pixel counts; of models without classes.",
    ),
    "max_duration_s": (
        {"type": "number", "exclusiveMinimum": 0},
        "Refuse a longer video; at most the service's own limit.",
    ),
    "objects": (
        {"type": "boolean", "default": False},
        "Also tell every visible object and how much it sounds, and outline the silent ones; of "
        "models that find objects.",
    ),
    "model": (
        {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "A name of GET /v1/models; left out, the service chooses.",
    ),
}


def parse_options(
    given: Mapping[str, Any], *, max_duration_s: float, choose_model: Callable[[str | None], str]
) -> Options:
    """The options of a request from texts, or from plain JSON values.

    ``choose_model`` gives the served name for the one asked for, None = none was.

    Raises:
        ApiError: 422, naming the option, its value and what is known.
    """
    for name in given:
        if name not in OPTIONS:
            known = ", ".join(OPTIONS)
            text = f"{client_name(name)[:_MAX_SHOWN]!r} is not known. Known: {known}."
            raise ApiError(422, "unknown_parameter", text)
    duration_s = _number(given, "max_duration_s", default=max_duration_s)
    threshold = _number(given, "threshold", default=0.5)
    if not threshold < 1:
        raise _invalid("threshold", given, "a number between 0 and 1")
    model = given.get("model")
    if model is not None and not isinstance(model, str):
        raise _invalid("model", given, "a name of GET /v1/models")
    return Options(
        format=_format(given),
        masks_per_s=_masks_per_s(given),
        threshold=threshold,
        max_duration_s=min(duration_s, max_duration_s),
        objects=_flag(given, "objects"),
        model=choose_model(model or None),
    )


def openapi_parameters() -> list[dict[str, Any]]:
    """The table as query parameters of OpenAPI."""
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
        for name, (schema, text) in OPTIONS.items()
    ]


def _format(given: Mapping[str, Any]) -> str:
    value = given.get("format", "rle_json")
    if value == "":  # an empty field of a form
        value = "rle_json"
    if not isinstance(value, str) or value not in ANSWERS:
        raise ApiError(
            422,
            "unknown_format",
            f"format={_shown(value)} is not known. Known: {', '.join(ANSWERS)}.",
        )
    return value


def _masks_per_s(given: Mapping[str, Any]) -> int | None:
    try:
        return parse_masks_per_s(str(given.get("masks_per_s", 1)))
    except ConfigError:
        raise _invalid("masks_per_s", given, "a whole number from 1 to 120, or native") from None


def _number(given: Mapping[str, Any], name: str, *, default: float) -> float:
    value = given.get(name, default)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise _invalid(name, given, "a positive number")
    return number


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    known = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    if isinstance(value, str):
        value = value.lower()
    if not isinstance(value, (bool, str)) or value not in known:
        raise _invalid(name, given, "true or false")
    return known[value]


def _invalid(name: str, given: Mapping[str, Any], wanted: str) -> ApiError:
    return ApiError(422, "invalid_field", f"{name}={_shown(given.get(name))} must be {wanted}")


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return str(value)[:_MAX_SHOWN]
    return repr("".join(c for c in value if c.isprintable())[:_MAX_SHOWN])
