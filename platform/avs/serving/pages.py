"""The web page and the documentation: plain files of this package, read once and found by name."""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["page_routes"]

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def page_routes() -> list[Route]:
    """``/`` and ``/docs``, and what they load below ``/page/``."""
    files = {
        entry.name: (entry.read_bytes(), _TYPES[entry.name.rpartition(".")[2]])
        for entry in resources.files("avs.serving").joinpath("page").iterdir()
        if entry.name.rpartition(".")[2] in _TYPES
    }

    def route(path: str, name: str) -> Route:
        body, media_type = files[name]

        async def answer(_: Request) -> Response:
            # Asked for again each time, but not sent again: an update shows at once.
            return Response(body, media_type=media_type, headers={"Cache-Control": "no-cache"})

        return Route(path, answer, methods=["GET"], include_in_schema=False)

    assets = [name for name in files if not name.endswith(".html")]
    return [
        route("/", "index.html"),
        route("/docs", "docs.html"),
        *(route(f"/page/{name}", name) for name in assets),
    ]
