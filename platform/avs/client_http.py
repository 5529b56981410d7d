"""How :mod:`avs.client` talks: requests are made anew where that helps, errors come in words.

Only what never was answered, or was answered with "later", is sent again: an answer that breaks off
may have cost the service minutes.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx

from avs.errors import AvsError

__all__ = ["Body", "Sender", "ServiceError", "lines", "not_understood", "parsed", "streamed_error"]

_DONE = (HTTPStatus.OK, HTTPStatus.ACCEPTED)
_LATER = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_UNREACHABLE = "unreachable"
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
# A service that is away for longer is the caller's decision, not a pause.
_MAX_RETRY_AFTER_S = 120.0
_MAX_ERROR_BYTES = 65536
_NOT_REACHED = (
    httpx.ConnectTimeout,
    httpx.NetworkError,
    httpx.ProxyError,
    httpx.RemoteProtocolError,
)

# Gives the ``files=``, ``json=`` or ``headers=`` of a request; entered for each try, so a file is
# read again.
Body = Callable[[], AbstractContextManager[dict[str, Any]]]


class ServiceError(AvsError):
    """What the service refused, or that it could not be reached.

    ``status``: of the HTTP answer, None where none came or a stream told of it later. ``code``: for
    programs, ``message``: for people. ``retry_after_s``: the pause that the service asks for.
    """

    def __init__(
        self, status: int | None, code: str, message: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(status, code, message, retry_after_s)
        self.status, self.code, self.message = status, code, message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = self.code if self.status is None else f"{self.code}, HTTP {self.status}"
        return f"{self.message} ({where})"

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may be answered later."""
        return self.status in _LATER or (self.status is None and self.code == _UNREACHABLE)


class Sender:
    """Sends requests that may be sent twice. ``retries``: tries after the first one."""

    def __init__(self, http: httpx.Client, *, retries: int, sleep: Callable[[float], None]) -> None:
        self._http, self._retries, self._sleep = http, retries, sleep

    @contextmanager
    def answer(
        self, method: str, path: str, *, body: Body, params: dict[str, str]
    ) -> Iterator[httpx.Response]:
        """The answer of success, whose body is still to be read; leaving it hangs up.

        Raises:
            ServiceError: it was refused, nothing answers, or, inside, the answer breaks off.
        """
        response = self._sent(method, path, body=body, params=params)
        try:
            with _told_as("cut_off", "the answer broke off"):
                yield response
        finally:
            response.close()

    def _sent(
        self, method: str, path: str, *, body: Body, params: dict[str, str]
    ) -> httpx.Response:
        for attempt in itertools.count():
            try:
                return self._tried(method, path, body=body, params=params)
            except ServiceError as error:
                pause_s = self._pause_s(error, attempt)
                if pause_s is None:
                    raise
            self._sleep(pause_s)
        raise AssertionError("counting has no end")

    def _tried(
        self, method: str, path: str, *, body: Body, params: dict[str, str]
    ) -> httpx.Response:
        with body() as content:
            request = self._http.build_request(method, path, params=params, **content)
            with _told_as(_UNREACHABLE, f"{request.url.host} cannot be reached"):
                response = self._http.send(request, stream=True)
        kind = response.headers.get("Content-Type", "")
        if response.status_code in _DONE and not kind.startswith("text/html"):
            return response
        try:
            raise _refusal(response)
        finally:
            response.close()

    def _pause_s(self, error: ServiceError, attempt: int) -> float | None:
        """How long to wait before the next try, None for no more."""
        asked_s = error.retry_after_s
        if not error.is_temporary or attempt >= self._retries:
            return None
        if asked_s is None:
            return min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0**attempt) * random.uniform(0.5, 1.0)
        # Spread, so that all who were sent away together do not come back together.
        return asked_s + random.uniform(0.0, 1.0) if asked_s <= _MAX_RETRY_AFTER_S else None


@contextmanager
def _told_as(code: str, message: str) -> Iterator[None]:
    """Errors of the connection as ServiceError; ``code`` for one that is lost."""
    try:
        yield
    except _NOT_REACHED as error:
        raise ServiceError(None, code, f"{message}: {error}") from error
    except httpx.TimeoutException as error:
        raise ServiceError(None, "timeout", "the service was silent for timeout_s") from error
    except httpx.HTTPError as error:
        raise ServiceError(None, "bad_exchange", f"the exchange failed: {error}") from error


def lines(response: httpx.Response) -> Iterator[bytes]:
    """Whole lines as they come. httpx's own also ends them where JSON texts have U+2028."""
    pending: list[bytes] = []
    for chunk in response.iter_bytes():
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            if line := b"".join([*pending, end]).strip():
                yield line
            pending.clear()
        pending.append(rest)


def parsed(text: bytes) -> Any:
    """JSON of the service; raises ServiceError for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise not_understood() from None


def streamed_error(event: dict[str, Any]) -> ServiceError:
    """What an ``error`` event tells."""
    try:
        return ServiceError(None, str(event["error"]["code"]), str(event["error"]["message"]))
    except (KeyError, TypeError):
        return not_understood()


def not_understood() -> ServiceError:
    """The error for an answer that only something else can have sent."""
    message = "the answer is not what the service sends: is url its address, of this version?"
    return ServiceError(None, "not_the_service", message)


def _refusal(response: httpx.Response) -> ServiceError:
    """The service's own words where it said any."""
    status, retry_after_s = response.status_code, _retry_after_s(response)
    try:
        told = json.loads(_start_of(response))["error"]
        return ServiceError(status, str(told["code"]), str(told["message"]), retry_after_s)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # a proxy answered, not the service
    host, phrase = response.request.url.host, response.reason_phrase
    if response.has_redirect_location:
        # Not followed: the token and the video would go where the caller did not send them.
        there = response.headers["Location"]
        message = f"{host} redirects to {there!r}: give the address of the service itself as url"
        return ServiceError(status, "redirect", message)
    message = f"{host} answered {status} {phrase} in a way that the service never does"
    return ServiceError(status, "not_the_service", message, retry_after_s)


def _start_of(response: httpx.Response) -> bytes:
    found = b""
    try:
        for chunk in response.iter_bytes():
            found += chunk
            if len(found) > _MAX_ERROR_BYTES:
                break
    except httpx.HTTPError:
        pass  # the status says enough
    return found


def _retry_after_s(response: httpx.Response) -> float | None:
    """Retry-After as seconds; it may be a date too."""
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
