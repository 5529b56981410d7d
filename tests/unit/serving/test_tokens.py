"""Tokens from the environment, and the refusal to be open without them."""

from __future__ import annotations

import hashlib

import pytest

from avs.errors import ConfigError
from avs.serving.tokens import is_loopback, is_token_known, token_digests


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.evil.org"])
def test_an_open_address_needs_tokens(host: str) -> None:
    with pytest.raises(ConfigError, match=r"host=.*AVS_API_TOKENS"):
        token_digests({"AVS_API_TOKENS": " , "}, host=host)
    assert len(token_digests({"AVS_API_TOKENS": "a"}, host=host)) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_a_loopback_address_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert token_digests({}, host=host) == ()


def test_a_proxy_that_ignores_the_address_needs_tokens() -> None:
    environ = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    with pytest.raises(ConfigError, match="RAY_SERVE_ENABLE_HA_PROXY"):
        token_digests(environ, host="127.0.0.1")
    assert token_digests({**environ, "AVS_API_TOKENS": "a"}, host="127.0.0.1")


def test_only_hashes_are_kept() -> None:
    digests = token_digests({"AVS_API_TOKENS": "one, two,,"}, host="127.0.0.1")
    assert digests == tuple(hashlib.sha256(t).digest() for t in (b"one", b"two"))
    assert is_token_known(b"Bearer two", digests)
    assert not is_token_known(b"Bearer ", digests)
    assert not is_token_known(b"Bearer one", ())
