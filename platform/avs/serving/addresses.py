"""Which addresses a client may have fetched: public https hosts, and allowed prefixes in S3.

A host is refused unless every address that it has is one of the open internet: what is allowed is
listed and the rest is not, because a list of what is private is never whole. Likewise a URL that
two parsers could read in two ways is refused, not repaired. The price: a few odd but honest URLs
(underscores or non-ASCII letters in a host, a trailing dot) must be written in a plainer way.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import string
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

import psutil

from avs.serving.messages import ApiError

__all__ = [
    "WebAddress",
    "check_object_uri",
    "is_public",
    "parse_web_url",
    "public_addresses",
    "redirect_target",
]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_URL_CHARS = 2048
_HTTPS_PORT = 443
_NETLOC = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_MAX_NAME_CHARS = 253
_INSIDE = re.compile(
    r".*\.(arpa|corp|home|internal|intranet|lan|local|localdomain|localhost|onion|private)"
)
_ASCII = string.digits + string.ascii_letters + string.punctuation

# IPv6 in use on the internet; outside lie ::ffff:a.b.c.d, NAT64, unique, site and link local.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Public by number but not by what is there; is_global says yes to some, in some Python versions.
_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # inside every Azure machine: its host
        "192.0.0.0/24",  # protocol assignments, among them a metadata service (192.0.0.192)
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # Teredo, which holds an IPv4 address, and other protocols
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WebAddress:
    """The pieces of an https URL, from which alone the request is made.

    host: a lower-case name, or an address without brackets. path, query: percent-encoded ASCII.
    """

    host: str
    port: int
    path: str
    query: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = f"?{self.query}" if self.query else ""
        return f"https://{host}:{self.port}{self.path}{query}"


def parse_web_url(url: str, *, ports: tuple[int, ...]) -> WebAddress:
    """The pieces of an https URL; its host is not looked up yet, see :func:`public_addresses`.

    Raises:
        ApiError: 422 it is malformed, holds credentials or is not https; 403 its host or port is
            never allowed.
    """
    _check_text(url)
    if " " in url:
        raise _bad("it holds a space: write it as %20")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _bad("it is malformed: write https://HOST/PATH") from None
    if parts.scheme != "https":
        begins = f"{parts.scheme[:20]}:" if parts.scheme else "no scheme"
        raise _bad(f"it begins with {begins}; known are https:// and s3://")
    if "@" in parts.netloc:
        raise _bad("it holds a user or password: leave that out, or send the file itself")
    match = _NETLOC.fullmatch(parts.netloc.lower())
    if not match:
        raise _bad("its host is malformed: write a plain ASCII name or address")
    port = int(match["port"] or _HTTPS_PORT)
    if port not in ports:
        allowed = ", ".join(str(p) for p in ports)
        raise _forbidden(f"port {port} is not allowed; allowed: {allowed}")
    # Encoded are only the non-ASCII letters: what is encoded already stays as it is.
    path, query = (quote(text, safe=_ASCII) for text in (parts.path or "/", parts.query))
    return WebAddress(host=_host(match["host"]), port=port, path=path, query=query)


def redirect_target(source: WebAddress, location: str, *, ports: tuple[int, ...]) -> WebAddress:
    """Where the Location header of an answer from ``source`` leads: vetted like a first URL.

    Raises:
        ApiError: as :func:`parse_web_url`.
    """
    try:
        _check_text(location)  # before urljoin, which drops some control characters
        return parse_web_url(_joined(source, location), ports=ports)
    except ApiError as error:
        raise ApiError(error.status, error.code, f"its redirect: {error.message}") from None


def check_object_uri(uri: str, *, prefixes: tuple[str, ...]) -> None:
    """Refuse an ``s3://`` address unless it lies below one of ``prefixes`` (each ends with "/").

    Raises:
        ApiError: 422 no single object is meant; 403 it lies elsewhere.
    """
    _check_text(uri)
    if any(c in "*?[]#" for c in uri):
        raise _bad("an s3:// address with * ? [ ] or # is not known: rename the object")
    if any(part in ("", ".", "..") for part in uri.removeprefix("s3://").split("/")):
        raise _bad("write s3://BUCKET/KEY, without empty parts, . and ..")
    if not uri.startswith(prefixes):
        raise _forbidden("this part of S3 is not open to the service: send the file itself")


async def public_addresses(address: WebAddress) -> tuple[str, ...]:
    """The addresses that the host has now, all vetted: connect to these and look up no more.

    Raises:
        ApiError: 403 one of them is not on the open internet; 422 there are none.
    """
    try:
        found = [ipaddress.ip_address(address.host)]
    except ValueError:
        found = await _look_up(address)
    own = _own_addresses()
    if not all(is_public(a) and str(a) not in own for a in found):
        # Not the address itself: the answers of inner name servers are no client's business.
        raise _forbidden(f"{address.host} is not on the open internet: send the file itself")
    return tuple(dict.fromkeys(str(a) for a in found))


def is_public(address: _Address) -> bool:
    """Whether an address is an ordinary one of the open internet."""
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _GLOBAL_UNICAST or address.scope_id
    ):
        return False
    is_ordinary = address.is_global and not address.is_multicast and not address.is_reserved
    return is_ordinary and not any(address in network for network in _NEVER)


async def _look_up(address: WebAddress) -> list[_Address]:
    loop = asyncio.get_running_loop()
    try:
        # The dot keeps the search list out, which would try names of the cluster.
        infos = await loop.getaddrinfo(
            f"{address.host}.", address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
    except (OSError, UnicodeError):
        infos = []
    if not infos:
        raise ApiError(422, "unreachable", f"there is no host {address.host}: check the name")
    return [ipaddress.ip_address(info[4][0]) for info in infos]


def _own_addresses() -> set[str]:
    """Those of this machine: a firewall in front of it would not see the connection."""
    return {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}


def _host(text: str) -> str:
    try:
        if text.startswith("["):
            return str(ipaddress.IPv6Address(text[1:-1]))
        # No top-level domain begins with a digit, but getaddrinfo takes "127.1" and "0x7f.1".
        if text.rpartition(".")[2][:1].isdigit():
            return str(ipaddress.IPv4Address(text))  # takes four plain decimal numbers only
    except ValueError:
        raise _bad("its address is malformed: write four decimal numbers or [IPv6]") from None
    if len(text) > _MAX_NAME_CHARS or not _NAME.fullmatch(text):
        raise _bad("its host is malformed: write a plain ASCII name without a trailing dot")
    if "." not in text or _INSIDE.fullmatch(text):
        raise _forbidden(f"{text} is not on the open internet: send the file itself")
    return text


def _joined(source: WebAddress, location: str) -> str:
    try:
        return urljoin(str(source), location)
    except ValueError:
        raise _bad("it is malformed") from None


def _check_text(url: str) -> None:
    if len(url) > _MAX_URL_CHARS:
        raise _bad(f"it is longer than {_MAX_URL_CHARS} characters")
    if not url.isprintable() or "\\" in url:
        raise _bad("it holds a backslash or a control character")


def _bad(reason: str) -> ApiError:
    return ApiError(422, "bad_url", f"the address cannot be used: {reason}")


def _forbidden(reason: str) -> ApiError:
    return ApiError(403, "forbidden_url", f"the address is not allowed: {reason}")
