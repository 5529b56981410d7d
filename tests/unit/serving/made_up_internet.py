"""An internet for tests: made-up names, public addresses that lead to a server of this process.

Names are looked up and sockets connect through the standard library only, so replacing both there
sees every try to reach something, by whatever way it came about. What is tested stays as it is.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from avs.serving import fetching
from avs.serving.messages import ApiError

PUBLIC = "93.184.216.34"
OTHER_PUBLIC = "151.101.1.69"
HOST = "videos.example.org"
OTHER_HOST = "cdn.example.net"
UNCERTIFIED_HOST = "www.example.com"
VIDEO = bytes(range(256)) * 12_000  # several parts
OWN_TLS = fetching._TLS  # as the service has it

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Internet:
    """``names``: the answers to one look-up after the other, the last one for ever.

    ``lookups`` and ``connected`` (host, port) tell what was tried, ``requests`` what arrived.
    """

    context: ssl.SSLContext
    names: dict[str, list[list[str]]] = field(default_factory=dict)
    lookups: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)
    requests: list[web.BaseRequest] = field(default_factory=list)
    server: tuple[str, int] | None = None

    def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        """In place of ``socket.getaddrinfo``."""
        self.lookups.append(host)
        answers = self.names.get(host.rstrip("."))
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "resolver 10.0.0.53 does not know the name")
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [_info(address, port) for address in addresses]

    def route(self, address: tuple[str, int]) -> tuple[str, int]:
        """Where a connection to ``address`` really goes."""
        self.connected.append(address[:2])
        if self.server is None or address[0] not in (PUBLIC, OTHER_PUBLIC):
            raise ConnectionRefusedError(111, f"refused by {address[0]}")
        return self.server

    def fetch(
        self, url: str, target: Path, *, handler: Handler | None = None, **changes: Any
    ) -> str:
        """``fetch_url`` while ``handler`` answers at every public address."""
        values: dict[str, Any] = {"max_bytes": 1 << 22, "timeout_s": 20.0, **changes}

        async def run() -> str:
            runner = await self._serve(handler) if handler else None
            try:
                limits = fetching.FetchLimits(**values)
                return await fetching.fetch_url(url, target, limits=limits)
            finally:
                if runner:
                    await runner.cleanup()

        return asyncio.run(run())

    async def _serve(self, handler: Handler) -> web.ServerRunner:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            self.requests.append(request)
            return await handler(request)

        runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        self.server = listener.getsockname()
        await web.SockSite(runner, listener, ssl_context=self.context).start()
        return runner


def make_internet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Internet:
    """The only network that a test can reach; its server's certificate is trusted."""
    certificate = folder / "server.pem"
    certificate.write_bytes(_certificate())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    made = Internet(context, {name: [[PUBLIC]] for name in (HOST, OTHER_HOST, UNCERTIFIED_HOST)})
    connect = socket.socket.connect
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", lambda s, where: connect(s, made.route(where)))
    monkeypatch.setattr(fetching, "_TLS", ssl.create_default_context(cafile=certificate))
    return made


def refusal(caught: pytest.ExceptionInfo[ApiError]) -> tuple[int, str]:
    """Status and code."""
    return caught.value.status, caught.value.code


def answering(*, body: bytes = VIDEO, status: int = 200, **headers: str) -> Handler:
    """The same answer to each request."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=body, status=status, headers=headers)

    return answer


def redirecting(*locations: str, status: int = 302) -> Handler:
    """Answers to one request after the other; the video comes last."""
    left = list(locations)

    async def answer(request: web.BaseRequest) -> web.Response:
        if left:
            headers = {"Location": left.pop(0), "Set-Cookie": "a=b"}
            return web.Response(status=status, headers=headers)
        return web.Response(body=VIDEO)

    return answer


def streaming(*parts: bytes, pause_s: float = 0.0) -> Handler:
    """An answer without a declared size."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for part in parts:
            await response.write(part)
            await asyncio.sleep(pause_s)
        return response

    return answer


def _certificate() -> bytes:
    """A key and its own certificate for two names and a public address, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "made up")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    names = [*map(x509.DNSName, (HOST, OTHER_HOST)), x509.IPAddress(ipaddress.ip_address(PUBLIC))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    formats = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, *formats)
    return private + made.public_bytes(serialization.Encoding.PEM)


def _info(address: str, port: Any) -> Any:
    if ":" in address:
        bare, _, zone = address.partition("%")
        where: tuple[Any, ...] = (bare, port, 0, int(zone or 0))
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)
