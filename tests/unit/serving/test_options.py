"""What a client may ask for, as texts and as JSON values, and how what it may not is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from avs.serving.messages import ANSWERS, ApiError, Options
from avs.serving.options import OPTIONS, openapi_parameters, parse_options


def _parsed(**given: Any) -> Options:
    return parse_options(given, max_duration_s=600.0, choose_model=lambda name: name or "chosen")


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        *[("format", name, name) for name in ANSWERS],
        ("format", "", "rle_json"),
        ("masks_per_s", "1", 1),
        ("masks_per_s", "120", 120),
        ("masks_per_s", 25, 25),
        ("masks_per_s", "native", None),
        ("threshold", "0.25", 0.25),
        ("threshold", "1e-3", 0.001),
        ("threshold", 0.75, 0.75),
        ("max_duration_s", "12.5", 12.5),
        ("max_duration_s", 12, 12.0),
        ("max_duration_s", "100000", 600.0),
        ("objects", "true", True),
        ("objects", "TRUE", True),
        ("objects", "1", True),
        ("objects", True, True),
        ("objects", "false", False),
        ("objects", "0", False),
        ("objects", False, False),
        ("model", "canary", "canary"),
        ("model", "", "chosen"),
        ("model", None, "chosen"),
    ],
)
def test_an_option_means_the_same_as_text_and_as_value(name: str, value: Any, meant: Any) -> None:
    assert getattr(_parsed(**{name: value}), name) == meant


def test_nothing_given_is_the_usual() -> None:
    assert _parsed() == Options(
        format="rle_json",
        masks_per_s=1,
        threshold=0.5,
        max_duration_s=600.0,
        objects=False,
        model="chosen",
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("format", ["gif", "RLE_JSON", 3, ["png"], {"a": 1}, True]),
        ("masks_per_s", ["0", "121", "-1", "1.5", "", "Native", "1e1", "²", "9" * 5000]),
        ("masks_per_s", [0, 1.5, True, None, [], 10**30]),
        ("threshold", ["0", "1", "-0.5", "nan", "inf", "", "half", "1.0", "0x1p-1"]),
        ("threshold", [0, 1, True, None, [0.5], float("nan"), 10**400]),
        ("max_duration_s", ["0", "-1", "nan", "inf", "", "long", None, True, {}]),
        ("objects", ["some", "", "yes", "2", "tru", None, 1, 0, [True], {}]),
        ("model", [3, True, ["canary"], {"a": 1}]),
    ],
)
def test_a_wrong_value_is_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ApiError) as caught:
            _parsed(**{name: value})
        error = caught.value
        assert (error.status, error.code in ("invalid_field", "unknown_format")) == (422, True)
        assert error.message.startswith(f"{name}="), value
        assert str(value)[:20] in error.message, value
        assert len(error.message) < 300


def test_an_unknown_option_is_named_with_the_known_ones() -> None:
    for name in ("object", "Format", "", "x" * 5000, "a\r\nb", "\ud800"):
        with pytest.raises(ApiError) as caught:
            _parsed(**{name: "1"})
        error = caught.value
        assert (error.status, error.code) == (422, "unknown_parameter")
        assert error.message.endswith(f"Known: {', '.join(OPTIONS)}.")
        assert error.message.isprintable()
        assert len(error.message) < 300


def test_what_is_shown_of_a_value_is_short_and_printable() -> None:
    for value in ("\r\nSet-Cookie: a=b\x1b[31m", "x" * 10**6, "\ud800", "‮abc"):
        for name in ("format", "threshold", "objects"):
            with pytest.raises(ApiError) as caught:
                _parsed(**{name: value})
            assert caught.value.message.isprintable()
            assert len(caught.value.message) < 300


def test_the_table_says_what_the_parser_takes() -> None:
    for parameter in openapi_parameters():
        assert parameter["in"] == "query"
        schema = parameter["schema"]
        name = parameter["name"]
        for value in [
            *schema.get("enum", ()),
            *([schema["default"]] if "default" in schema else ()),
        ]:
            _parsed(**{name: value})
        for key in ("exclusiveMinimum", "exclusiveMaximum"):
            if key in schema:
                with pytest.raises(ApiError):
                    _parsed(**{name: schema[key]})
    assert [p["name"] for p in openapi_parameters()] == list(OPTIONS)
    json.dumps(openapi_parameters(), allow_nan=False)
