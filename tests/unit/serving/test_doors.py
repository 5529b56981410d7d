"""Host, Origin and Sec-Fetch-Site as browsers, programs and attackers send them, one by one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from avs.serving.doors import Doors
from avs.serving.messages import ApiError

ALLOWED = "https://app.example.org"
LOCAL = Doors.of("127.0.0.1", allowed_hosts=["lab.example.org."], origins=[ALLOWED])
OPEN = Doors.of("0.0.0.0", allowed_hosts=["lab.example.org"], origins=[ALLOWED])

# Host header -> known on loopback, known on every address.
HOSTS: dict[str | None, tuple[bool, bool]] = {
    "127.0.0.1": (True, True),
    "127.0.0.1:8000": (True, True),
    "127.9.9.9:1": (True, True),
    "[::1]": (True, True),
    "[::1]:8000": (True, True),
    "localhost": (True, True),
    "localhost:65535": (True, True),
    "LOCALHOST:8000": (True, True),
    "localhost.": (True, True),
    "lab.example.org": (True, True),
    "Lab.Example.org.:8000": (True, True),
    # names that an attacker may point at this machine
    "evil.example": (False, False),
    "127.0.0.1.evil.example:8000": (False, False),
    "localhost.evil.example": (False, False),
    "evil.example:127.0.0.1": (False, False),
    "7f000001.nip.io": (False, False),
    "sub.lab.example.org": (False, False),
    "evil-lab.example.org": (False, False),
    # addresses: no rebinding, but on loopback nobody is at them
    "192.168.1.5:8000": (False, True),
    "[fe80::1]:8000": (False, True),
    "0.0.0.0:8000": (False, True),
    # what is no host
    "": (False, False),
    None: (False, False),
    ".": (False, False),
    ":8000": (False, False),
    "::1": (False, False),
    "[::1": (False, False),
    "2130706433": (False, False),
    "0x7f.1": (False, False),
    "127.1": (False, False),
    "user@127.0.0.1": (False, False),
    "127.0.0.1, evil.example": (False, False),
    "127.0.0.1 evil.example": (False, False),
    "127.0.0.1:8000/evil": (False, False),
    "127.0.0.1:port": (False, False),
    "127.0.0.1:123456": (False, False),
    "localhost\n": (False, False),
    "\uff4cocalhost": (False, False),
}


def _passes(check: Callable[[], None], code: str, way_out: str) -> bool:
    told: ApiError | None = None
    try:
        check()
    except ApiError as error:
        told = error
    assert told is None or (told.status, told.code) == (403, code)
    assert told is None or way_out in told.message
    return told is None


def _is_known(doors: Doors, host: str | None) -> bool:
    headers = {} if host is None else {b"host": host.encode("utf-8")}
    return _passes(lambda: doors.check_host(headers), "unknown_host", "access.allowed_hosts")


@pytest.mark.parametrize("host", HOSTS)
def test_the_host_header_decides_who_is_meant(host: str | None) -> None:
    assert (_is_known(LOCAL, host), _is_known(OPEN, host)) == HOSTS[host]


def test_off_loopback_the_names_of_the_machine_count() -> None:
    own = socket.gethostname()
    assert _is_known(OPEN, own)
    assert _is_known(OPEN, f"{socket.getfqdn().upper()}:8000")
    assert not _is_known(LOCAL, own) or own == "localhost"
    named = Doors.of("gpu7.example.org", allowed_hosts=[], origins=[])
    assert _is_known(named, "GPU7.example.org:8000")
    assert not _is_known(named, "gpu8.example.org")


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a browser sends from where, and whether it may call; ``page``: it wants to look."""

    says: str
    fine: bool
    origin: str | None = None
    site: str | None = None
    method: str = "POST"
    page: bool = False
    host: str = "127.0.0.1:8000"
    headers: dict[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        sent = {b"host": self.host, b"origin": self.origin, b"sec-fetch-site": self.site}
        headers = {k: v.encode() for k, v in sent.items() if v is not None}
        object.__setattr__(self, "headers", headers)


OWN = "http://127.0.0.1:8000"
EVIL = "https://evil.example"
PAGES = [
    Sent(says="a program sends neither header", fine=True),
    Sent(says="a program reads", fine=True, method="GET"),
    Sent(says="its own page posts", fine=True, origin=OWN, site="same-origin"),
    Sent(says="its own page, of an old browser", fine=True, origin=OWN),
    Sent(says="its own page reads", fine=True, site="same-origin", method="GET"),
    Sent(says="its own page over TLS", fine=True, origin="https://127.0.0.1:8000"),
    Sent(
        says="its own page, upper case", fine=True, origin="http://Localhost:1", host="LOCALHOST:1"
    ),
    Sent(says="its own page at IPv6", fine=True, origin="http://[::1]:8000", host="[::1]:8000"),
    Sent(says="an address that was typed", fine=True, site="none", method="GET"),
    Sent(says="an allowed page", fine=True, origin=ALLOWED, site="cross-site"),
    Sent(says="an allowed page, upper case", fine=True, origin=ALLOWED.upper()),
    Sent(says="a link to the page", fine=True, site="cross-site", method="GET", page=True),
    Sent(says="a look at the page's head", fine=True, site="same-site", method="HEAD", page=True),
    Sent(says="a foreign script", fine=False, origin=EVIL, site="cross-site"),
    Sent(says="a foreign script of an old browser", fine=False, origin=EVIL),
    Sent(says="a foreign form", fine=False, origin="null", site="cross-site"),
    Sent(says="a form in a sandbox", fine=False, origin="null"),
    Sent(says="a form on the page", fine=False, site="cross-site", page=True),
    Sent(says="a script that loads the page", fine=False, origin=EVIL, method="GET", page=True),
    Sent(says="a foreign picture", fine=False, site="cross-site", method="GET"),
    Sent(says="a link to data", fine=False, site="cross-site", method="GET"),
    Sent(says="a sister site", fine=False, site="same-site", method="GET"),
    Sent(says="another port here", fine=False, origin="http://127.0.0.1:9000", site="same-site"),
    Sent(says="no port here", fine=False, origin="http://127.0.0.1"),
    Sent(says="another name of here", fine=False, origin="http://localhost:8000"),
    Sent(says="a name that begins alike", fine=False, origin=f"{OWN}.evil.example"),
    Sent(says="a trailing dot", fine=False, origin="http://127.0.0.1.:8000"),
    Sent(says="an extension", fine=False, origin="chrome-extension://abcdef", site="cross-site"),
    Sent(says="a file on disk", fine=False, origin="file://"),
    Sent(says="a word", fine=False, origin="127.0.0.1:8000"),
    Sent(says="an unknown kind of site", fine=False, site="next-door", method="GET"),
    Sent(says="a sub-domain of an allowed page", fine=False, origin="https://x.app.example.org"),
    Sent(says="an allowed page without TLS", fine=False, origin="http://app.example.org"),
    Sent(says="a foreign socket", fine=False, origin=EVIL, method="CONNECT"),
    Sent(says="a socket of its own page", fine=True, origin=OWN, method="CONNECT"),
    Sent(says="a socket of a program", fine=True, method="CONNECT"),
]


def _may_call(doors: Doors, sent: Sent) -> bool:
    def check() -> None:
        doors.check_page(sent.headers, method=sent.method, is_page=sent.page)

    return _passes(check, "foreign_page", "access.allowed_origins")


@pytest.mark.parametrize("sent", PAGES, ids=[sent.says for sent in PAGES])
@pytest.mark.parametrize("doors", [LOCAL, OPEN], ids=["on loopback", "on every address"])
def test_only_own_and_allowed_pages_may_call(sent: Sent, doors: Doors) -> None:
    assert _may_call(doors, sent) is sent.fine


@pytest.mark.parametrize("sent", PAGES, ids=[sent.says for sent in PAGES])
def test_only_allowed_pages_may_read_answers(sent: Sent) -> None:
    allowed = (sent.origin or "").lower() == ALLOWED
    headers = LOCAL.cors(sent.headers)
    assert headers.get("Access-Control-Allow-Origin") == (ALLOWED if allowed else None)
    assert bool(headers) is allowed
