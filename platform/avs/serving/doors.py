"""Which names the service answers to, and which web pages may use it.

Both hold without tokens too, because then a browser on this machine is the way in: a foreign page
may point a name of its own at 127.0.0.1 (DNS rebinding, stopped by the Host header), or post a form
or open a socket to it (stopped by the Origin and Sec-Fetch-Site headers, which pages cannot forge).
An address as Host is no rebinding: that needs a name.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from avs.serving.messages import ApiError
from avs.serving.tokens import is_loopback

__all__ = ["Doors"]

_HOST = re.compile(r"(?P<name>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.IGNORECASE)
_READING = ("GET", "HEAD")


@dataclass(frozen=True, kw_only=True, slots=True)
class Doors:
    """``hosts``: names beside addresses and localhost. ``origins``: foreign pages that may call."""

    is_loopback: bool
    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(cls, host: str, *, allowed_hosts: Sequence[str], origins: Sequence[str]) -> Doors:
        """For a service that listens on ``host``: off loopback this machine's own name counts."""
        names = {name.lower().rstrip(".") for name in allowed_hosts}
        if not is_loopback(host):
            names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        return cls(
            is_loopback=is_loopback(host),
            hosts=frozenset(names),
            origins=frozenset(origin.lower() for origin in origins),
        )

    def check_host(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise ApiError where the Host header names neither an address nor a known name."""
        text = headers.get(b"host", b"").decode("latin-1")
        match = _HOST.fullmatch(text)
        name = match["name"].strip("[]").lower().rstrip(".") if match else ""
        if not match or not self._knows(name):
            raise ApiError(
                403,
                "unknown_host",
                "this service is not known under the name in the Host header; its owner can add "
                "it to access.allowed_hosts",
            )

    def _knows(self, name: str) -> bool:
        if name in self.hosts or name == "localhost":
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return is_loopback(name) or not self.is_loopback

    def check_page(self, headers: Mapping[bytes, bytes], *, method: str, is_page: bool) -> None:
        """Raise ApiError where a foreign web page sends the request.

        ``is_page``: something to look at, which a link may lead to. Programs send neither header.
        """
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        site = headers.get(b"sec-fetch-site", b"").decode("latin-1").lower()
        is_link = is_page and method in _READING
        if origin:
            is_own = (
                origin.partition("://")[2] == headers.get(b"host", b"").decode("latin-1").lower()
            )
            is_fine = is_own or origin in self.origins
        else:
            is_fine = is_link or site in ("", "same-origin", "none")
        if not is_fine:
            raise ApiError(
                403,
                "foreign_page",
                "a page of another web site may not call this service; its owner can add the site "
                "to access.allowed_origins",
            )

    def cors(self, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """What lets an allowed foreign page read the answer; nothing for all others."""
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin not in self.origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": "authorization, content-type, idempotency-key, "
            "x-avs-client",
            "Access-Control-Expose-Headers": "location, x-avs-model, x-avs-checkpoint, retry-after",
            "Vary": "Origin",
        }
