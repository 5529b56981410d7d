"""The configuration of the service: safe as it comes, and every wrong value is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from made_up_service import CONFIGS, serving_config

from avs.config import parse
from avs.errors import ConfigError
from avs.overrides import values_forced
from avs.serving.config import LimitsConfig, ServeConfig


def _config(*overrides: str) -> ServeConfig:
    """As on the command line of the job."""
    given = values_forced(["checkpoint=c", *overrides], ServeConfig)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return parse(compose("serve", given), ServeConfig)


def test_the_yaml_is_safe_by_default() -> None:
    config = _config()
    assert config.host == "127.0.0.1"
    assert config.limits.max_body_bytes >= 64 * 10**6
    assert config.limits.max_duration_s >= 120
    assert config.access.allowed_origins == []
    assert config.access.allowed_hosts == []
    assert config.fetch.s3_prefixes == []
    assert config.scratch is None
    assert config.models == {}


def test_the_tests_use_the_values_of_the_yaml() -> None:
    config, usual = _config(), serving_config()
    for name in ("limits", "access", "fetch", "live", "decoders", "spool_above_bytes"):
        assert getattr(config, name) == getattr(usual, name)


LIMITS = [
    "max_body_bytes",
    "max_duration_s",
    "max_pixels",
    "max_frames",
    "upload_timeout_s",
    "request_timeout_s",
    "decode_timeout_s",
    "max_queued_requests",
]
LIVE = [
    "max_message_bytes",
    "max_bytes_per_s",
    "hello_timeout_s",
    "idle_timeout_s",
    "max_session_s",
]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", 0),
        ("port", 65536),
        ("decoders", 0),
        ("decoder_cpus", 0),
        ("start_timeout_s", -0.5),
        ("spool_above_bytes", -1),
        ("min_segmenters", 0),
        ("min_segmenters", 1000),
        ("reload_s", 0),
        ("access.per_minute", 0),
        ("access.concurrent", -1),
        ("fetch.timeout_s", 0),
        *[(f"limits.{name}", value) for name in LIMITS for value in (0, -1)],
        *[(f"live.{name}", 0) for name in LIVE],
    ],
)
def test_a_bad_number_is_named(key: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        _config(f"{key}={value}")
    name, _, number = str(caught.value).partition(" ")[0].rstrip(":").partition("=")
    assert name == key
    assert float(number) == value


def test_every_limit_is_checked() -> None:
    assert set(LIMITS) == set(LimitsConfig.__slots__)
    with pytest.raises(ConfigError, match=r"limits\.max_body_bytes=0 must be positive"):
        serving_config(limits={"max_body_bytes": 0})


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("host=", "host= is empty"),
        ("limits.max_pixels=many", "limits.max_pixels=many"),
        ("+limits.max_pixel=3", "Did you mean limits.max_pixels"),
        ("access.allowed_origins=[app.example.org]", "has app.example.org: write scheme and host"),
        ("access.allowed_origins=[https://a.org/]", "has https://a.org/: write scheme and host"),
        ("access.allowed_origins=['*']", "has *: write scheme and host"),
        ("access.allowed_origins=['https://*.a.org']", "has https://*.a.org: write scheme"),
        ("access.allowed_origins=['null']", "has null: write scheme and host"),
        ("access.allowed_origins=[ftp://a.org]", "has ftp://a.org: write scheme and host"),
        ("access.allowed_origins=a.org", "access.allowed_origins=a.org"),
        ("fetch.s3_prefixes=[s3://]", "has s3://: write s3://BUCKET/PREFIX"),
        ("fetch.s3_prefixes=[s3:///]", "has s3:///: write s3://BUCKET/PREFIX"),
        ("fetch.s3_prefixes=[/data]", "has /data: write s3://BUCKET/PREFIX"),
        ("models={default: {checkpoint: c}}", "models.default: a name is"),
        ("models={a-b: {checkpoint: c}}", "models.a-b: a name is"),
        ("models={a: {checkpoint: c, share: 1.5}}", "models.a.share=1.5 must lie between 0 and 1"),
        ("models={a: {checkpoint: c, share: -0.1}}", "models.a.share=-0.1 must lie between"),
        ("models={a: {share: 0.5}}", "models.a.checkpoint is not set"),
        (
            "models={a: {checkpoint: c, share: 0.6}, b: {checkpoint: c, share: 0.6}}",
            "the shares add up to more than 1",
        ),
    ],
)
def test_what_is_wrong_is_told_with_the_way_out(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _config(override)
    assert told in str(caught.value)


def test_further_models_are_taken() -> None:
    config = _config("models={canary: {checkpoint: d, share: 0.05}, b: {checkpoint: e}}")
    assert config.models["canary"].share == 0.05
    assert (config.models["b"].checkpoint, config.models["b"].share) == ("e", 0.0)
    # in floating point these add up to a little more than 1
    shares = enumerate((0.05, 0.55, 0.3, 0.1))
    models = ", ".join(f"m{k}: {{checkpoint: c, share: {share}}}" for k, share in shares)
    assert len(_config(f"models={{{models}}}").models) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf * 0, -math.inf])
def test_a_time_that_is_no_number_is_refused(value: float) -> None:
    limits = _config().limits
    values: dict[str, Any] = {name: getattr(limits, name) for name in LimitsConfig.__slots__}
    with pytest.raises(ConfigError, match=r"limits\.request_timeout_s=(nan|-inf)"):
        LimitsConfig(**{**values, "request_timeout_s": value})


def test_tokens_are_no_key_of_it() -> None:
    with pytest.raises(ConfigError, match=r"access\.tokens=a is not known"):
        _config("+access.tokens=a")
    assert "sha256" in (Path(CONFIGS) / "serving" / "usual.yaml").read_text()
