"""The configuration of the service."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from avs.config import parse
from avs.errors import ConfigError
from avs.serving.config import ServeConfig

CONFIGS = Path(__file__).parents[3] / "configs"


def _config(*overrides: str) -> ServeConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return parse(compose("serve", list(overrides)), ServeConfig)


def test_the_yaml_is_safe_by_default() -> None:
    config = _config("checkpoint=c")
    assert config.host == "127.0.0.1"
    assert config.max_body_bytes >= 64 * 10**6
    assert config.max_duration_s >= 120


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", 0),
        ("port", 65536),
        ("max_body_bytes", 0),
        ("max_queued_requests", 0),
        ("max_duration_s", -1),
        ("upload_timeout_s", 0),
        ("request_timeout_s", 0),
        ("start_timeout_s", -0.5),
    ],
)
def test_a_bad_value_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key}={value}"):
        _config("checkpoint=c", f"{key}={value}")


def test_a_time_that_is_no_number_is_refused() -> None:
    config = _config("checkpoint=c")
    values = {name: getattr(config, name) for name in ServeConfig.__slots__}
    with pytest.raises(ConfigError, match="request_timeout_s=nan"):
        ServeConfig(**{**values, "request_timeout_s": math.nan})
    with pytest.raises(ConfigError, match="host="):
        ServeConfig(**{**values, "host": ""})
