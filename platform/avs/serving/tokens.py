"""Who may call: API tokens, kept as hashes, with scopes and limits of their own.

Without tokens the service listens on a loopback address only. Ray's own token does not protect
Serve's port (measured: 200 without it), so this check is the only one. Limits hold for the one
HTTP replica that counts them.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import enum
import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from avs.config import build
from avs.errors import ConfigError
from avs.serving.config import AccessConfig
from avs.serving.messages import ApiError

__all__ = ["TOKENS_VARIABLE", "Gate", "Scope", "Token", "is_loopback", "read_tokens"]

TOKENS_VARIABLE = "AVS_API_TOKENS"


class Scope(enum.Enum):
    """segment: videos and the live connection. batch: whole prefixes. admin: the metrics."""

    SEGMENT = "segment"
    BATCH = "batch"
    ADMIN = "admin"


_USUAL = (Scope.SEGMENT, Scope.BATCH)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """sha256: hex digest of the token. per_minute, concurrent: null = as in ``access``."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...] = _USUAL
    per_minute: int | None = None
    concurrent: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(  # whoever builds it says of which file
                f"token {self.name}: sha256 must be the 64 hex digits that "
                "`printf %s TOKEN | sha256sum | cut -c1-64` prints."
            )
        for key in ("per_minute", "concurrent"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"token {self.name}: {key}={value} must be at least 1, or null.")


def read_tokens(
    environ: Mapping[str, str], *, access: AccessConfig, host: str
) -> tuple[Token, ...]:
    """The tokens of AVS_API_TOKENS and of the tokens file; empty = none are asked for.

    The variable holds tokens separated by commas, each as ``TOKEN`` or, with other scopes than
    segment and batch, ``TOKEN:segment+admin``.

    Raises:
        ConfigError: there are none and ``host`` can be reached from other machines, or the file
            cannot be used.
    """
    given = [t.strip() for t in environ.get(TOKENS_VARIABLE, "").split(",")]
    tokens = [_of_variable(text, k) for k, text in enumerate(t for t in given if t)]
    if access.tokens_file is not None:
        tokens += _of_file(Path(access.tokens_file))
    if tokens:
        return tuple(tokens)
    if not is_loopback(host):
        raise ConfigError(
            f"host={host} can be reached from other machines: set {TOKENS_VARIABLE} to one or more "
            "tokens (comma-separated), give access.tokens_file=FILE, or keep host=127.0.0.1."
        )
    if environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        raise ConfigError(
            f"RAY_SERVE_ENABLE_HA_PROXY=1 listens on every address, whatever host={host} says: set "
            f"{TOKENS_VARIABLE}, or leave that variable out."
        )
    return ()


def _of_variable(text: str, index: int) -> Token:
    token, _, suffix = text.rpartition(":")
    known = [scope.value for scope in Scope]
    names = suffix.split("+")
    if not token or not all(name in known for name in names):
        if token and any(difflib.get_close_matches(name, known) for name in names):
            raise ConfigError(
                f"{TOKENS_VARIABLE}[{index}] ends in :{suffix}, which is none of the scopes "
                f"{', '.join(known)} joined by +."
            )
        token, names = text, [scope.value for scope in _USUAL]
    scopes = tuple(Scope(name) for name in names)
    return Token(name=f"{TOKENS_VARIABLE}[{index}]", sha256=_digest(token.encode()), scopes=scopes)


def _of_file(path: Path) -> list[Token]:
    key = f"access.tokens_file={path}"
    try:
        plain: Any = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{key} cannot be read: {' '.join(str(error).split())}") from None
    tokens: list[Token] = build(list[Token], plain, path=key)
    if not tokens:
        raise ConfigError(f"{key} holds no token.")
    return tokens


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own and no other's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(slots=True)
class _Use:
    """What a token has in hand: requests that run, and requests it may still begin."""

    allowance: float
    seen_s: float
    num_open: int = 0


@dataclass(slots=True)
class Gate:
    """Checks tokens and counts their requests. Without tokens everybody passes, uncounted."""

    tokens: Sequence[Token]
    access: AccessConfig
    _uses: dict[str, _Use] = field(default_factory=dict)

    def identify(self, authorization: bytes, *, with_basic: bool = False) -> Token | None:
        """The token of an Authorization header ``Bearer TOKEN``; None where none are asked for.

        ``with_basic``: also as the password of a browser's own log-in.

        Raises:
            ApiError: 401, it is missing or not known.
        """
        if not self.tokens:
            return None
        scheme, _, value = authorization.partition(b" ")
        given = value.strip()
        if with_basic and scheme.lower() == b"basic":
            given = _password(given)
        elif scheme.lower() != b"bearer":
            given = b""
        found = self._find(given)
        if found is None:
            challenge = 'Basic realm="avs", charset="UTF-8"' if with_basic else "Bearer"
            raise ApiError(
                401,
                "unauthorized",
                "give a known token as 'Authorization: Bearer TOKEN'",
                {"WWW-Authenticate": challenge},
            )
        return found

    def _find(self, given: bytes) -> Token | None:
        """Every digest is compared, so that the time tells nothing about which one was close."""
        digest = _digest(given)
        matches = [t for t in self.tokens if hmac.compare_digest(digest, t.sha256)]
        return matches[0] if matches and given else None

    def check_scope(self, token: Token | None, scope: Scope) -> None:
        """Raise ApiError 403 where the token has not the scope."""
        if token is not None and scope not in token.scopes:
            raise ApiError(403, "forbidden", f"this token has not the scope {scope.value}")

    @contextmanager
    def counted(self, token: Token | None) -> Iterator[None]:
        """Hold one request of a token; raises ApiError 429 above its rate or number."""
        if token is None:
            yield
            return
        use = self._begin(token)
        try:
            yield
        finally:
            use.num_open -= 1

    def _begin(self, token: Token) -> _Use:
        per_minute = token.per_minute or self.access.per_minute
        concurrent = token.concurrent or self.access.concurrent
        now_s = time.monotonic()
        use = self._uses.setdefault(token.sha256, _Use(float(per_minute), now_s))
        gained = (now_s - use.seen_s) * per_minute / 60
        use.allowance, use.seen_s = min(float(per_minute), use.allowance + gained), now_s
        if use.num_open >= concurrent:
            text = f"this token has {concurrent} requests open already; try again"
            raise ApiError(429, "too_many_open", text, {"Retry-After": "1"})
        if use.allowance < 1:
            wait_s = int((1 - use.allowance) * 60 / per_minute) + 1
            text = f"this token may begin {per_minute} requests a minute; try again"
            raise ApiError(429, "too_many", text, {"Retry-After": f"{wait_s}"})
        use.allowance -= 1
        use.num_open += 1
        return use


def _password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _digest(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()
