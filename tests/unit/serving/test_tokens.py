"""Tokens from the environment and a file, the refusal to be open without them, how they count."""

from __future__ import annotations

import hashlib
import hmac
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up_service import serving_config

from avs.errors import ConfigError
from avs.serving import tokens as tokens_module
from avs.serving.messages import ApiError
from avs.serving.tokens import Gate, Scope, Token, is_loopback, read_tokens

USUAL = (Scope.SEGMENT, Scope.BATCH)
LOCAL = "127.0.0.1"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read(text: str = "", *, host: str = LOCAL, file: Path | None = None) -> tuple[Token, ...]:
    access = serving_config(access={"tokens_file": None if file is None else str(file)}).access
    return read_tokens({"AVS_API_TOKENS": text}, access=access, host=host)


def _gate(text: str, **access: Any) -> Gate:
    return Gate(_read(text), serving_config(access=access).access)


def _write(tmp_path: Path, plain: Any) -> Path:
    path = tmp_path / "tokens.yaml"
    path.write_text(plain if isinstance(plain, str) else yaml.safe_dump(plain))
    return path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.evil.org"])
def test_an_open_address_needs_tokens(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"host={host} .*AVS_API_TOKENS.*access\.tokens_file"):
        _read(" , ", host=host)
    assert len(_read("a", host=host)) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "::1", "127.1.2.3"])
def test_a_loopback_address_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert _read(host=host) == ()


def test_a_proxy_that_ignores_the_address_needs_tokens() -> None:
    environ = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    access = serving_config().access
    with pytest.raises(ConfigError, match=r"RAY_SERVE_ENABLE_HA_PROXY=1.*AVS_API_TOKENS"):
        read_tokens(environ, access=access, host=LOCAL)
    assert read_tokens({**environ, "AVS_API_TOKENS": "a"}, access=access, host=LOCAL)


@pytest.mark.parametrize(
    ("text", "token", "scopes"),
    [
        ("plain", "plain", USUAL),
        ("t:segment", "t", (Scope.SEGMENT,)),
        ("t:segment+admin", "t", (Scope.SEGMENT, Scope.ADMIN)),
        ("t:batch+segment+admin", "t", (Scope.BATCH, Scope.SEGMENT, Scope.ADMIN)),
        ("with:colon", "with:colon", USUAL),
        ("with:colon:admin", "with:colon", (Scope.ADMIN,)),
        ("t:", "t:", USUAL),
        (":admin", ":admin", USUAL),
        ("admin", "admin", USUAL),
        ("pässwörd", "pässwörd", USUAL),
    ],
)
def test_a_token_of_the_variable_may_name_its_scopes(
    text: str, token: str, scopes: tuple[Scope, ...]
) -> None:
    [read] = _read(f" {text} ,")
    assert (read.sha256, read.scopes) == (_digest(token), scopes)


@pytest.mark.parametrize("text", ["t:segmentt", "t:segment+", "t:admn", "t:segment+bach"])
def test_a_misspelt_scope_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="none of the scopes segment, batch, admin"):
        _read(f"good,{text}")


def test_only_hashes_are_kept() -> None:
    read = _read("one, two:admin,,")
    assert [token.sha256 for token in read] == [_digest("one"), _digest("two")]
    shown = repr(Gate(read, serving_config().access))
    assert "'one'" not in shown
    assert "two" not in shown
    assert len({token.name for token in read}) == 2


def test_a_file_gives_each_token_its_own_limits(tmp_path: Path) -> None:
    lab = {"name": "lab", "sha256": _digest("a"), "scopes": ["admin"], "per_minute": 5}
    path = _write(tmp_path, [lab, {"name": "web", "sha256": _digest("b"), "concurrent": 2}])
    first, lab_token, web = _read("x", file=path)
    assert first.sha256 == _digest("x")
    assert (lab_token.scopes, lab_token.per_minute, lab_token.concurrent) == (
        (Scope.ADMIN,),
        5,
        None,
    )
    assert (web.name, web.scopes, web.concurrent) == ("web", USUAL, 2)
    assert _read(file=path, host="0.0.0.0") == (lab_token, web)


GOOD = {"name": "lab", "sha256": _digest("a")}


@pytest.mark.parametrize(
    ("plain", "told"),
    [
        ("[", ["cannot be read"]),
        ("\tx", ["cannot be read"]),
        ([], ["holds no token"]),
        ("", ["None", "a list"]),
        ({"lab": GOOD}, ["a list"]),
        ([{"name": "lab"}], ["[0].sha256", "is not set"]),
        ([GOOD, {**GOOD, "sha256": "secret"}], ["[1]", "lab", "sha256", "sha256sum"]),
        ([{**GOOD, "sha256": _digest("a").upper()}], ["[0]", "lab", "sha256", "sha256sum"]),
        ([{**GOOD, "scopes": ["root"]}], ["[0].scopes[0]=root", "admin, batch, segment"]),
        ([{**GOOD, "scope": ["admin"]}], ["[0].scope=", "Did you mean", "scopes"]),
        ([{**GOOD, "per_minute": 0}], ["[0]", "lab", "per_minute=0", "at least 1, or null"]),
        ([{**GOOD, "concurrent": -1}], ["[0]", "lab", "concurrent=-1", "at least 1, or null"]),
        ([{**GOOD, "per_minute": "many"}], ["[0].per_minute=many", "a whole number"]),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, plain: Any, told: list[str]) -> None:
    path = _write(tmp_path, plain)
    with pytest.raises(ConfigError) as caught:
        _read(file=path)
    message = str(caught.value)
    assert f"access.tokens_file={path}" in message
    assert [text for text in told if text not in message] == []
    assert "secret" not in message  # a token in plain must not end in a log
    assert "\n" not in message


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match=r"access\.tokens_file=.* cannot be read"):
            _read("a", file=path)
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"access\.tokens_file=.* cannot be read"):
        _read(file=tmp_path / "latin")


def test_every_digest_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    plain = hmac.compare_digest

    def compare(given: str, known: str) -> bool:
        compared.append((given, known))
        return plain(given, known)

    monkeypatch.setattr(tokens_module.hmac, "compare_digest", compare)
    gate = _gate("one,two,three")
    known = [token.sha256 for token in gate.tokens]
    for value in (b"Bearer one", b"Bearer three", b"Bearer wrong", b"Bearer ", b"Basic one", b""):
        compared.clear()
        with suppress(ApiError):
            gate.identify(value)
        assert [mine for _, mine in compared] == known, value
        assert len({given for given, _ in compared}) == 1


def test_the_right_token_is_found() -> None:
    gate = _gate("one,two:admin,pässwörd")
    assert gate.identify(b"Bearer two") is gate.tokens[1]
    assert gate.identify(b"bEARER  one ") is gate.tokens[0]
    assert gate.identify("Bearer pässwörd".encode()) is gate.tokens[2]
    gate.check_scope(gate.tokens[1], Scope.ADMIN)
    with pytest.raises(ApiError, match="scope segment"):
        gate.check_scope(gate.tokens[1], Scope.SEGMENT)


def test_without_tokens_everybody_passes_uncounted() -> None:
    gate = _gate("", per_minute=1, concurrent=1)
    assert gate.identify(b"Bearer whatever") is None
    gate.check_scope(None, Scope.ADMIN)
    with ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(gate.counted(None))


def test_a_rate_recovers_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(tokens_module.time, "monotonic", lambda: now_s)
    gate = _gate("one", per_minute=6)

    def begin() -> str | None:
        try:
            with gate.counted(gate.tokens[0]):
                return None
        except ApiError as error:
            return error.headers["Retry-After"]

    assert [begin() for _ in range(7)] == [None] * 6 + ["11"]
    now_s += 8.5
    assert begin() == "2"
    now_s += 2.0
    assert [begin(), begin()] == [None, "10"]
    now_s += 3600.0
    assert [begin() for _ in range(7)] == [None] * 6 + ["11"]


def test_open_requests_are_counted_and_given_back() -> None:
    gate = _gate("one,two", concurrent=2)
    first, second = gate.tokens
    with gate.counted(first):
        with gate.counted(first), pytest.raises(ApiError, match="2 requests open"):
            gate.counted(first).__enter__()
        with pytest.raises(KeyError), gate.counted(first):
            raise KeyError
        with gate.counted(first), gate.counted(second):
            pass
