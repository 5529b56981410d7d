"""Fetch a video from an address that a client gave, without being led to anything inside.

    parse -> look up once -> vet every address -> connect to exactly these -> stream, or a redirect,
    which starts at "parse" again

aiohttp does HTTP and TLS; finding the peer is taken out of its hands, because whoever looks a name
up a second time can get a second answer. Each hop has a session of its own: nothing (cookie,
connection, credential) goes from one host to the next. The price is a TLS handshake a hop.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from avs import __version__, storage
from avs.errors import AvsError, ConfigError
from avs.serving.addresses import (
    WebAddress,
    check_object_uri,
    parse_web_url,
    public_addresses,
    redirect_target,
)
from avs.serving.messages import ApiError
from avs.serving.names import client_name

__all__ = ["FetchLimits", "fetch_url"]

_PART_BYTES = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
# Servers may compress all the same: the body is kept as sent, so that a small bomb stays small.
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"avs/{__version__}"}
_PREFIX = re.compile(r"s3://[^/]+/(?:[^/]+/)*")
_TLS: ssl.SSLContext | bool = True  # aiohttp's context, which verifies chain and host name
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchLimits:
    """``timeout_s`` is for the whole fetch with its redirects.

    s3_prefixes: ``s3://bucket/prefix/``, each with its last slash. ports: of https.
    """

    max_bytes: int
    timeout_s: float
    max_redirects: int = 5
    s3_prefixes: tuple[str, ...] = ()
    ports: tuple[int, ...] = (443,)

    def __post_init__(self) -> None:
        for prefix in self.s3_prefixes:
            if not _PREFIX.fullmatch(prefix):  # "s3://" would open every bucket
                raise ConfigError(f"s3_prefixes: {prefix!r} must look like s3://BUCKET/PREFIX/.")


async def fetch_url(url: str, target: Path, *, limits: FetchLimits) -> str:
    """Fetch ``https://`` or ``s3://`` into the new local file ``target``; returns a name to show.

    The event loop stays free. ``target`` is not there after an error.

    Raises:
        ApiError: 422 bad_url, 403 forbidden_url, 413 too_large, 422 unreachable, 504 fetch_timeout.
        OSError: ``target`` exists or cannot be written.
    """
    if url[:5].lower() == "s3://":
        uri = f"s3://{url[5:]}"
        check_object_uri(uri, prefixes=limits.s3_prefixes)
        parts, name = _object_parts(uri, limits), uri
    else:
        address = parse_web_url(url, ports=limits.ports)
        parts, name = _web_parts(address, limits), unquote(address.path.rpartition("/")[2])
    try:
        async with asyncio.timeout(limits.timeout_s) as clock, aclosing(parts):
            await _save(parts, target, limits)
    except TimeoutError:
        if not clock.expired():  # the disk's, not ours
            raise
        seconds = f"{limits.timeout_s:g} s"
        text = f"the video was not fetched within {seconds}: send the file itself"
        raise ApiError(504, "fetch_timeout", text) from None
    return client_name(name)


async def _save(parts: AsyncGenerator[bytes, None], target: Path, limits: FetchLimits) -> None:
    # Opened here and not in a thread: cancelled then, nobody would know whether it is there.
    file, num_bytes = target.open("xb"), 0
    try:
        with file:
            async for part in parts:
                num_bytes += len(part)
                _check_size(num_bytes, limits)
                await asyncio.to_thread(file.write, part)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


async def _object_parts(uri: str, limits: FetchLimits) -> AsyncGenerator[bytes, None]:
    try:
        num_bytes, _ = await asyncio.to_thread(storage.file_version, uri)
        _check_size(num_bytes, limits)
        source = await asyncio.to_thread(storage.open_file, uri)
        while part := await asyncio.to_thread(source.read, _PART_BYTES):
            yield part
    except (AvsError, OSError) as error:
        # Its text names the endpoint or the missing credentials: for the log only.
        _logger.warning("an object could not be fetched: %s", error)
        raise _unreachable("there is no such object, or the service cannot read it") from None


async def _web_parts(address: WebAddress, limits: FetchLimits) -> AsyncGenerator[bytes, None]:
    try:
        for _ in range(limits.max_redirects + 1):
            async with _get(address) as response:
                location = response.headers.get("Location")
                if response.status in _REDIRECTS and location is not None:
                    address = redirect_target(address, location, ports=limits.ports)
                    continue
                if response.status != 200:
                    raise _unreachable(f"{address.host} answered with status {response.status}")
                _check_size(response.content_length or 0, limits)
                async for part in response.content.iter_chunked(_PART_BYTES):
                    yield part
                return
    except (aiohttp.ClientError, OSError) as error:
        raise _unreachable(f"{address.host} {_trouble(error)}") from None
    raise _unreachable(f"it redirects more than {limits.max_redirects} times")


@asynccontextmanager
async def _get(address: WebAddress) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to one GET, its body unread, from an address that was vetted just now."""
    peers = _Peers(await public_addresses(address))
    connector = aiohttp.TCPConnector(
        resolver=peers, use_dns_cache=False, socket_factory=peers.socket, ssl=_TLS
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        trust_env=False,  # a proxy would look the name up again
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),  # fetch_url has one clock for all
        read_bufsize=_PART_BYTES,
    )
    url = URL.build(
        scheme="https",
        host=address.host,
        port=address.port,
        path=address.path,
        query_string=address.query,
        encoded=True,
    )
    async with session, session.get(url, allow_redirects=False) as response:
        yield response


class _Peers(AbstractResolver):
    """Tells aiohttp the vetted addresses, and makes no socket for any other.

    Both, because aiohttp does not ask its resolver about a host that is an address.
    """

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 (the signature is aiohttp's)
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""

    def socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        if address[0] not in self._addresses:  # no assert: this must hold under python -O too
            raise AssertionError("aiohttp connects to an address that was not vetted")
        return socket.socket(family, kind, protocol)


def _trouble(error: Exception) -> str:
    """In our words: those of aiohttp and of TLS name addresses and files."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "has no valid certificate for this name, or no TLS"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "takes no connection"
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError)):
        return "broke the connection off"
    return "did not answer in HTTP"


def _check_size(num_bytes: int, limits: FetchLimits) -> None:
    if num_bytes > limits.max_bytes:
        text = f"the video is larger than {limits.max_bytes} bytes: give a shorter or smaller one"
        raise ApiError(413, "too_large", text)


def _unreachable(reason: str) -> ApiError:
    return ApiError(422, "unreachable", f"the video could not be fetched: {reason}")
