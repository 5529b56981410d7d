"""Who may call: API tokens, kept as hashes and compared in constant time.

Without tokens the service listens on a loopback address only. Ray's own token does not protect
Serve's port (measured: 200 without it), so this check is the only one.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence

from avs.errors import ConfigError

__all__ = ["TOKENS_VARIABLE", "is_loopback", "is_token_known", "token_digests"]

TOKENS_VARIABLE = "AVS_API_TOKENS"


def token_digests(environ: Mapping[str, str], *, host: str) -> tuple[bytes, ...]:
    """SHA-256 of each token in AVS_API_TOKENS (comma-separated); empty = none are asked for.

    Raises:
        ConfigError: there are no tokens and ``host`` can be reached from other machines.
    """
    tokens = [t.strip() for t in environ.get(TOKENS_VARIABLE, "").split(",")]
    digests = tuple(_digest(t.encode()) for t in tokens if t)
    if digests:
        return digests
    if not is_loopback(host):
        raise ConfigError(
            f"host={host} can be reached from other machines: set {TOKENS_VARIABLE} to one or more "
            "tokens (comma-separated), or keep host=127.0.0.1."
        )
    if environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        raise ConfigError(
            f"RAY_SERVE_ENABLE_HA_PROXY=1 listens on every address, whatever host={host} says: set "
            f"{TOKENS_VARIABLE}, or leave that variable out."
        )
    return ()


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own and no other's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_token_known(authorization: bytes, digests: Sequence[bytes]) -> bool:
    """Whether the value of an Authorization header is ``Bearer`` with a known token.

    Every digest is compared, so that the time tells nothing about which one was close.
    """
    scheme, _, token = authorization.partition(b" ")
    given = _digest(token.strip())
    matches = [hmac.compare_digest(given, known) for known in digests]
    return scheme.lower() == b"bearer" and any(matches)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
