"""Videos that are fetched by https: from whom, by what request, and through which redirects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up_internet import (
    HOST,
    OTHER_HOST,
    OTHER_PUBLIC,
    OWN_TLS,
    PUBLIC,
    UNCERTIFIED_HOST,
    VIDEO,
    Internet,
    answering,
    make_internet,
    redirecting,
    refusal,
)

from avs.serving import fetching
from avs.serving.messages import ApiError

URL = f"https://{HOST}/clips/a%20b.mp4?sig=a%2Bb#t=3"


@pytest.fixture
def internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Internet:
    return make_internet(tmp_path, monkeypatch)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def test_a_video_is_fetched_from_the_vetted_address(internet: Internet, target: Path) -> None:
    assert internet.fetch(URL, target, handler=answering()) == "a b.mp4"
    assert target.read_bytes() == VIDEO
    assert internet.connected == [(PUBLIC, 443)]
    (request,) = internet.requests
    assert request.raw_path == "/clips/a%20b.mp4?sig=a%2Bb"
    assert request.headers["Host"] == HOST
    assert request.headers["Accept-Encoding"] == "identity"
    assert not {"Authorization", "Cookie", "Referer"} & set(request.headers)


def test_an_address_without_a_name_is_fetched(internet: Internet, target: Path) -> None:
    assert internet.fetch(f"https://{PUBLIC}", target, handler=answering()) == "file"
    assert internet.lookups == []


def test_no_other_address_is_connected_to_whatever_aiohttp_does(
    internet: Internet, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = fetching._Peers.resolve

    async def wrong(peers: Any, host: str, port: int, **_: Any) -> Any:
        return [{**found, "host": "127.0.0.1"} for found in await resolve(peers, host, port)]

    monkeypatch.setattr(fetching._Peers, "resolve", wrong)
    with pytest.raises(AssertionError, match="not vetted"):
        internet.fetch(URL, target, handler=answering())
    assert internet.connected == []
    assert not target.exists()


def test_a_proxy_of_the_environment_is_not_used(
    internet: Internet, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://10.0.0.1:3128")
    internet.fetch(URL, target, handler=answering())
    assert internet.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_vetted_anew(internet: Internet, target: Path, status: int) -> None:
    internet.names[OTHER_HOST] = [[OTHER_PUBLIC]]
    handler = redirecting(f"https://{OTHER_HOST}/x/other.mp4", "../third.mp4?q", status=status)
    assert internet.fetch(URL, target, handler=handler) == "a b.mp4"
    assert target.read_bytes() == VIDEO
    assert internet.lookups == [f"{HOST}.", f"{OTHER_HOST}.", f"{OTHER_HOST}."]
    assert internet.connected == [(PUBLIC, 443), (OTHER_PUBLIC, 443), (OTHER_PUBLIC, 443)]
    assert internet.requests[-1].raw_path == "/third.mp4?q"
    assert not any("Cookie" in request.headers for request in internet.requests)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://169.254.169.254/latest/meta-data", (403, "forbidden_url")),
        ("https://inner.example.org/", (403, "forbidden_url")),
        ("https://localhost/", (403, "forbidden_url")),
        (f"https://{HOST}:8443/", (403, "forbidden_url")),
        ("//127.0.0.1/", (403, "forbidden_url")),
        (f"http://{HOST}/a.mp4", (422, "bad_url")),
        ("file:///etc/passwd", (422, "bad_url")),
        ("s3://bucket/data/a.mp4", (422, "bad_url")),
        (f"https://user:password@{HOST}/", (422, "bad_url")),
        ("https:\\\\127.0.0.1/", (422, "bad_url")),
        ("https://[::1", (422, "bad_url")),
        ("/a\tb.mp4", (422, "bad_url")),
        ("/" + "a" * 3000, (422, "bad_url")),
    ],
)
def test_a_redirect_cannot_lead_where_a_first_address_cannot(
    internet: Internet, target: Path, location: str, expected: tuple[int, str]
) -> None:
    internet.names["inner.example.org"] = [["10.0.0.7"]]
    with pytest.raises(ApiError) as caught:
        internet.fetch(
            URL, target, handler=redirecting(location), s3_prefixes=("s3://bucket/data/",)
        )
    assert refusal(caught) == expected
    assert "10.0.0.7" not in caught.value.message
    assert internet.connected == [(PUBLIC, 443)]
    assert not target.exists()


def test_a_refused_redirect_is_told_as_one(internet: Internet, target: Path) -> None:
    with pytest.raises(ApiError, match=r"its redirect: .* begins with http:"):
        internet.fetch(URL, target, handler=redirecting(f"http://{HOST}/"))


def test_a_name_may_not_change_to_an_inner_one_between_hops(
    internet: Internet, target: Path
) -> None:
    internet.names[HOST] = [[PUBLIC], ["127.0.0.1"]]
    with pytest.raises(ApiError) as caught:
        internet.fetch(URL, target, handler=redirecting("/again.mp4"))
    assert refusal(caught) == (403, "forbidden_url")
    assert internet.connected == [(PUBLIC, 443)]


def test_redirects_end(internet: Internet, target: Path) -> None:
    handler = redirecting(*["/again"] * 3)
    with pytest.raises(ApiError, match="more than 2 times") as caught:
        internet.fetch(URL, target, handler=handler, max_redirects=2)
    assert refusal(caught) == (422, "unreachable")
    assert len(internet.requests) == 3
    assert internet.fetch(URL, target, handler=redirecting("/b", "/c"), max_redirects=2)


@pytest.mark.parametrize("status", [204, 206, 302, 304, 401, 404, 500])
def test_other_answers_are_told(internet: Internet, target: Path, status: int) -> None:
    with pytest.raises(ApiError, match=f"status {status}") as caught:
        internet.fetch(URL, target, handler=answering(status=status))
    assert refusal(caught) == (422, "unreachable")
    assert not target.exists()


def test_a_certificate_must_be_for_the_host(internet: Internet, target: Path) -> None:
    with pytest.raises(ApiError, match="certificate") as caught:
        internet.fetch(f"https://{UNCERTIFIED_HOST}/", target, handler=answering())
    assert refusal(caught) == (422, "unreachable")
    assert internet.requests == []


def test_a_certificate_must_be_trusted(
    internet: Internet, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_TLS", OWN_TLS)
    with pytest.raises(ApiError, match="certificate") as caught:
        internet.fetch(URL, target, handler=answering())
    assert refusal(caught) == (422, "unreachable")
    assert internet.requests == []


def test_a_refused_connection_is_told_without_addresses(internet: Internet, target: Path) -> None:
    with pytest.raises(ApiError) as caught:
        internet.fetch(URL, target)
    assert refusal(caught) == (422, "unreachable")
    assert PUBLIC not in caught.value.message
