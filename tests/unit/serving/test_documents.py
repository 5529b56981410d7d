"""What the service says of itself: the page, the documentation, OpenAPI and the list of models."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from made_up_service import HASH, FakeBackend, client_of, code_of

from avs.serving.messages import ANSWERS
from avs.serving.options import OPTIONS, parse_options

LOADING = ("src", "srcset", "poster", "data", "action", "formaction", "background", "manifest")


class _Links(HTMLParser):
    """Addresses that a page loads, those it leads to, and what a strict CSP would stop."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.linked.append(value or "")
            elif name in LOADING or name == "href":
                self.loaded.append(value or "")
            elif name.startswith("on") or name == "style":
                self.inline.append(f"{tag} {name}")
        if tag in ("style", "base", "iframe", "object", "embed") or (
            tag == "script" and "src" not in dict(attrs)
        ):
            self.inline.append(tag)


def _links(text: str) -> _Links:
    links = _Links()
    links.feed(text)
    return links


@pytest.fixture
def schema(client: TestClient) -> dict[str, Any]:
    plain: dict[str, Any] = client.get("/openapi.json").json()
    return plain


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_only_what_the_service_has(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = _links(page.text)
    assert len(links.loaded) >= 3
    for address in links.loaded:
        if address.startswith("data:image/"):
            continue
        assert re.fullmatch(r"page/[a-z-]+\.(css|js)", address), address
        assert client.get(f"/{address}").status_code == 200
    assert links.inline == []
    for address in links.linked:
        assert address.startswith("#") or client.get(f"/{address}").status_code == 200, address


def test_scripts_and_styles_load_only_what_the_service_has(client: TestClient) -> None:
    found = {address for path in ("/", "/docs") for address in _links(client.get(path).text).loaded}
    seen: set[str] = set()
    waiting = {address for address in found if address.startswith("page/")}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        asset = client.get(f"/{name}")
        assert asset.status_code == 200, name
        kind = {"css": "text/css", "js": "text/javascript"}[name.rpartition(".")[2]]
        assert asset.headers["content-type"] == f"{kind}; charset=utf-8"
        assert not re.search(r"@import|url\(\s*['\"]?(?!data:|#)", asset.text), name
        imports = re.findall(r"""(?:from|import)\s*\(?\s*["']([^"']+)["']""", asset.text)
        assert all(re.fullmatch(r"\./[a-z-]+\.js", one) for one in imports), (name, imports)
        waiting |= {f"page/{one[2:]}" for one in imports} - seen
    assert len(seen) > 10


@pytest.mark.parametrize("path", ["/", "/docs", "/page/style.css"])
def test_pages_may_load_nothing_foreign(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'"
    assert {"frame-ancestors", "base-uri", "form-action"} <= set(rules)
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources == {"'none'", "'self'", "blob:", "data:"}
    assert rules["script-src"] == "'self'"
    assert headers["cache-control"] == "no-cache"


def test_no_page_of_another_site_is_left(client: TestClient) -> None:
    assert client.get("/redoc").status_code == 404
    assert client.get("/docs/oauth2-redirect").status_code == 404


def test_the_models_are_listed_with_the_limits(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    [model] = listed["models"]
    assert model == {
        "name": "default",
        "default": True,
        "share": 1.0,
        "checkpoint": HASH,
        "network": "tpavi",
        "num_frames": 5,
        "image_size_px": 64,
        "classes": ["background", "sounding"],
        "finds_objects": False,
        "metrics": {"miou": 0.5},
        "card": "# A card\n",
    }
    assert listed["limits"]["max_body_bytes"] == 128 << 20
    assert listed["limits"]["formats"] == list(ANSWERS)
    assert set(listed["limits"]) > {"max_duration_s", "max_pixels", "max_frames", "live"}


def test_the_parameters_are_the_options(schema: dict[str, Any]) -> None:
    segment = schema["paths"]["/v1/segment"]["post"]
    assert {p["name"]: p["schema"] for p in segment["parameters"]} == {
        name: kind for name, (kind, _) in OPTIONS.items()
    }
    assert all(p["in"] == "query" and p["description"] for p in segment["parameters"])
    for content, extra in (("multipart/form-data", "file"), ("application/json", "url")):
        body = segment["requestBody"]["content"][content]["schema"]
        assert set(body["properties"]) == {extra, *OPTIONS}
        assert body["required"] == [extra]
        assert body["additionalProperties"] is False


def test_the_defaults_that_are_told_are_those_that_hold() -> None:
    told = {name: kind["default"] for name, (kind, _) in OPTIONS.items() if "default" in kind}
    assert set(told) == set(OPTIONS) - {"max_duration_s", "model"}

    def options(given: dict[str, Any]) -> Any:
        return parse_options(given, max_duration_s=9.0, choose_model=lambda name: name or "default")

    assert options(told) == options({})


def test_every_answer_is_told(schema: dict[str, Any]) -> None:
    responses = schema["paths"]["/v1/segment"]["post"]["responses"]
    assert set(responses["200"]["content"]) == {a.media_type for a in ANSWERS.values()}
    errors = {"400", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504"}
    assert set(responses) == errors | {"200"}
    for status in errors:
        assert responses[status]["description"]
        error = responses[status]["content"]["application/json"]["schema"]
        assert error["properties"]["error"]["required"] == ["code", "message"]


def _references(plain: Any) -> Iterator[str]:
    if isinstance(plain, dict):
        yield from [plain["$ref"]] if "$ref" in plain else []
        for value in plain.values():
            yield from _references(value)
    if isinstance(plain, list):
        for value in plain:
            yield from _references(value)


def test_the_document_is_whole(client: TestClient, schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.")
    assert set(schema["paths"]) == {
        *("/healthz", "/readyz", "/metrics", "/v1/segment", "/v1/models"),
        *("/v1/batches", "/v1/batches/{id}"),
    }
    assert schema["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert list(_references(schema)) == []  # each operation says all of itself
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert client.get("/openapi.json").json() == schema
    for operations in schema["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert {"200", "401", "403"} <= set(operation["responses"])


def test_the_examples_run(schema: dict[str, Any], backend: FakeBackend) -> None:
    [sample] = schema["paths"]["/v1/segment"]["post"]["x-codeSamples"]
    lines = sample["source"].splitlines()
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "curl"
        [address] = [word for word in words if word.startswith("http://")]
        query = dict(part.split("=") for part in address.partition("?")[2].split("&") if part)
        parse_options(query, max_duration_s=9.0, choose_model=lambda name: name or "default")
        body = words[words.index("-d") + 1] if "-d" in words else '{"url": "as a file"}'
        assert set(json.loads(body)) == {"url"}


def test_the_documentation_asks_for_a_token_and_the_page_does_not(
    make_app: Callable[..., FastAPI],
) -> None:
    client = client_of(make_app(tokens="t0ken"))
    assert client.get("/").status_code == 200
    assert client.get("/page/app.js").status_code == 200
    for path in ("/docs", "/openapi.json", "/v1/models"):
        assert code_of(client.get(path)) == (401, "unauthorized")
