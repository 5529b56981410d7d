"""Nothing inside can be reached by an address: tricks of the URL, of names and of redirects."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from made_up_internet import HOST, OTHER_HOST, OTHER_PUBLIC, PUBLIC, Internet, make_internet

from avs.serving.addresses import is_public, parse_web_url
from avs.serving.messages import ApiError

BAD, FORBIDDEN = (422, "bad_url"), (403, "forbidden_url")
TRICKS = {
    BAD: [
        "",
        "videos.example.org/a.mp4",
        "//videos.example.org/a.mp4",
        "/etc/passwd",
        "http://videos.example.org/a.mp4",
        "HTTP://videos.example.org/a.mp4",
        "file:///etc/passwd",
        "ftp://videos.example.org/a.mp4",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "data:video/mp4;base64,AAAA",
        "blob:https://videos.example.org/1",
        "dict://127.0.0.1:11211/stats",
        "unix:///var/run/docker.sock",
        "javascript:alert(1)",
        "https:videos.example.org/a.mp4",
        "https:///videos.example.org/a.mp4",
        "https://",
        "https://?a=videos.example.org",
        "https://user:password@videos.example.org/a.mp4",
        "https://videos.example.org@127.0.0.1/a.mp4",
        "https://@videos.example.org/a.mp4",
        "https://127.0.0.1\\@videos.example.org/a.mp4",
        "https:\\\\videos.example.org\\a.mp4",
        "https://videos.example.org\\@127.0.0.1/",
        "https://videos.example.org/a\r\nHost: 127.0.0.1",
        "https://videos.exam\tple.org/a.mp4",
        "\x00https://videos.example.org/a.mp4",
        " https://videos.example.org/a.mp4",
        "https://videos.example.org /a.mp4",
        "https://videos.example.org/a b.mp4",
        "https://videos.example.org:port/",
        "https://videos.example.org:-443/",
        "https://videos.example.org:443:443/",
        "https://2130706433/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://0x7f.0.0.1/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://1.2.3.4.5/",
        "https://256.256.256.256/",
        "https://%31%32%37.0.0.1/",
        "https://127.0.0.1%2f@videos.example.org/",
        "https://videos%2eexample.org/",
        "https://１２７.0.0.1/",  # noqa: RUF001
        "https://127。0。0。1/",
        "https://ⓛocalhost/",
        "https://ʟocalhost/",
        "https://localhost./",
        "https://videos.example.org./",
        "https://videos..example.org/",
        "https://-videos.example.org/",
        "https://" + "a." * 130 + "org/",
        "https://" + "a" * 64 + ".org/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[::1/",
        "https://[::1]videos.example.org/",
        "https://[127.0.0.1]/",
        "https://[v1.a]/",
        "https://[]/",
        "https://videos.example.org/" + "a" * 2048,
    ],
    FORBIDDEN: [
        "https://127.0.0.1/",
        "https://127.255.255.254/",
        "https://0.0.0.0/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://100.100.100.200/latest/meta-data",
        "https://169.254.169.254/latest/meta-data",
        "https://168.63.129.16/",
        "https://192.0.0.9/",
        "https://192.0.0.192/",
        "https://192.88.99.1/",
        "https://224.0.0.1/",
        "https://240.0.0.1/",
        "https://255.255.255.255/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::ffff:0:127.0.0.1]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b::127.0.0.1]/",
        "https://[64:ff9b:1::a00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[2001:0:7f00:1::]/",
        "https://[3fff::1]/",
        "https://[2001:db8::1]/",
        "https://[fec0::1]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1]/",
        "https://[ff02::1]/",
        "https://localhost/",
        "https://LOCALHOST/",
        "https://a.localhost/",
        "https://metadata.google.internal/computeMetadata/v1/",
        "https://printer.local/",
        "https://kubernetes.default.svc.cluster.local/",
        "https://router.home.arpa/",
        "https://redis/",
        "https://videos.example.org:22/",
        "https://videos.example.org:8443/",
        "https://videos.example.org:0/",
    ],
}
CASES = [(url, expected) for expected, urls in TRICKS.items() for url in urls]


@pytest.fixture
def internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Internet:
    return make_internet(tmp_path, monkeypatch)


def refused(internet: Internet, url: str, folder: Path, **changes: Any) -> tuple[int, str]:
    """How a fetch is refused, with a reason that tells no path and no outcome of a look-up."""
    with pytest.raises(ApiError) as caught:
        internet.fetch(url, folder / "video", **changes)
    assert not (folder / "video").exists()
    message = caught.value.message
    assert not any(secret in message for secret in (str(folder), "Err", "10.0.0.53", PUBLIC))
    return caught.value.status, caught.value.code


@pytest.mark.parametrize(("url", "expected"), CASES)
def test_a_trick_is_refused_and_nothing_is_tried(
    internet: Internet, tmp_path: Path, url: str, expected: tuple[int, str]
) -> None:
    assert refused(internet, url, tmp_path) == expected
    assert (internet.lookups, internet.connected) == ([], [])


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://videos.example.org/", "begins with http:; known are https:// and s3://"),
        ("videos.example.org", "no scheme"),
        ("https://user:secret@videos.example.org/", "leave that out"),
        ("https://127.1/", "four decimal numbers"),
        ("https://videos.example.org:22/", "port 22 is not allowed; allowed: 443"),
        ("https://localhost/", "localhost is not on the open internet"),
        ("https://videos.example.org/" + "a" * 2048, "longer than 2048"),
    ],
)
def test_what_is_wrong_is_told_with_the_cure(url: str, told: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_web_url(url, ports=(443,))
    assert told in caught.value.message
    assert "secret" not in caught.value.message


INNER = [
    ["127.0.0.1"],
    ["10.0.0.7"],
    ["169.254.169.254"],
    ["::1"],
    ["::ffff:10.0.0.7"],
    ["fd00:ec2::254"],
    ["fe80::1%2"],
    ["64:ff9b::a00:7"],
    [PUBLIC, "10.0.0.7"],
    ["10.0.0.7", PUBLIC],
    [PUBLIC, "::1"],
]


@pytest.mark.parametrize("addresses", INNER, ids=",".join)
def test_a_name_that_leads_inside_is_refused_whole(
    internet: Internet, tmp_path: Path, addresses: list[str]
) -> None:
    internet.names[HOST] = [addresses]
    assert refused(internet, f"https://{HOST}/a.mp4", tmp_path) == FORBIDDEN
    assert internet.connected == []
    assert internet.lookups == [f"{HOST}."]  # absolute: no search list is tried


def test_only_the_answer_that_was_vetted_is_connected_to(
    internet: Internet, tmp_path: Path
) -> None:
    internet.names[HOST] = [[PUBLIC, OTHER_PUBLIC], ["127.0.0.1"]]
    assert refused(internet, f"https://{HOST}/a.mp4", tmp_path) == (422, "unreachable")
    assert len(internet.lookups) == 1
    assert set(internet.connected) == {(PUBLIC, 443), (OTHER_PUBLIC, 443)}


def test_the_public_address_of_this_machine_is_inside(
    internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SimpleNamespace(address=PUBLIC, family=socket.AF_INET)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": [entry]})
    assert refused(internet, f"https://{HOST}/a.mp4", tmp_path) == FORBIDDEN
    assert internet.connected == []


def test_a_name_that_is_not_there_is_told(internet: Internet, tmp_path: Path) -> None:
    assert refused(internet, "https://nowhere.example.org/", tmp_path) == (422, "unreachable")


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1"])
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_a_plain_address_keeps_its_meaning() -> None:
    url = f"HTTPS://{OTHER_HOST.upper()}:443/A%2Fb/../ü.mp4?X-Sig=a%2Bb&x=ö#t=3"
    address = parse_web_url(url, ports=(443,))
    assert address.host == OTHER_HOST
    assert (address.path, address.query) == ("/A%2Fb/../%C3%BC.mp4", "X-Sig=a%2Bb&x=%C3%B6")
    assert str(parse_web_url("https://[2606:4700:0::1111]?", ports=(443,))) == (
        "https://[2606:4700::1111]:443/"
    )
