"""The video of a request: a file in a form, or an address in JSON that is fetched for the client.

The form is parsed by Starlette, which keeps small files in memory and others on disk, with the body
already counted by the guard; nothing here reads more than it was told to.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.to_thread
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from avs.serving.fetching import FetchLimits, fetch_url
from avs.serving.messages import ApiError, Upload
from avs.serving.names import client_name
from avs.serving.options import OPTIONS
from avs.serving.scratch import Scratch

__all__ = ["Intake"]

_MAX_FIELD_BYTES = 4096
_MAX_JSON_BYTES = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Intake:
    """How videos come in: above ``spool_above_bytes`` they go to ``scratch``. ``https``: whether
    public addresses are fetched."""

    scratch: Scratch
    spool_above_bytes: int
    fetch: FetchLimits
    https: bool

    @asynccontextmanager
    async def received(
        self, request: Request, *, check: Callable[[dict[str, Any]], object] = lambda _: None
    ) -> AsyncIterator[tuple[Upload, dict[str, Any]]]:
        """The upload and the options of a request; what was spooled is removed at the end.

        Raises:
            ApiError: the body is no form with a file and no JSON with an address; and what
                ``check`` raises of the options, before anything is fetched.
        """
        given = _once(request.query_params.multi_items())
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            plain = await _json(request)
            url = plain.pop("url", None)
            if not isinstance(url, str):
                raise ApiError(422, "missing_field", 'url is missing: send {"url": "https://..."}')
            options = _merged(given, plain)
            check(options)
            with self.scratch.folder() as folder:
                target = folder / "download"
                name = await self._fetched(url, target)
                async with self._kept(target, name) as upload:
                    yield upload, options
            return
        async with _form(request) as form:
            items = _once(form.multi_items())
            file = items.pop("file", None)
            _check_fields(file, items)
            assert isinstance(file, UploadFile)
            async with self._held(file, client_name(file.filename)) as upload:
                yield upload, _merged(given, items)

    async def _fetched(self, url: str, target: Path) -> str:
        if url.lower().startswith("https:") and not self.https:
            raise ApiError(403, "forbidden_url", "this service fetches no https:// addresses")
        return await fetch_url(url, target, limits=self.fetch)

    @asynccontextmanager
    async def _held(self, file: UploadFile, name: str) -> AsyncIterator[Upload]:
        num_bytes = file.size or 0
        if num_bytes <= self.spool_above_bytes:
            yield Upload(name=name, num_bytes=num_bytes, data=await file.read())
            return
        with self.scratch.folder() as folder:
            target = folder / "upload"
            await anyio.to_thread.run_sync(_copy, file.file, target)
            async with self._kept(target, name) as upload:
                yield upload

    @asynccontextmanager
    async def _kept(self, path: Path, name: str) -> AsyncIterator[Upload]:
        """A local file where the decoders reach it."""
        num_bytes = path.stat().st_size
        if num_bytes <= self.spool_above_bytes:
            data = await anyio.to_thread.run_sync(path.read_bytes)
            yield Upload(name=name, num_bytes=num_bytes, data=data)
            return
        putting = asyncio.create_task(asyncio.to_thread(self.scratch.put, path))
        try:
            yield Upload(name=name, num_bytes=num_bytes, uri=await asyncio.shield(putting))
        finally:
            with anyio.CancelScope(shield=True):  # also when the client has left meanwhile
                await asyncio.wait([putting])
                if putting.exception() is None:
                    await anyio.to_thread.run_sync(self.scratch.remove, putting.result())


def _copy(source: BinaryIO, target: Path) -> None:
    source.seek(0)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    try:
        form = await request.form(
            max_files=1, max_fields=len(OPTIONS) + 1, max_part_size=_MAX_FIELD_BYTES
        )
    except UnicodeError:  # Starlette decodes names by the charset that the client tells
        raise ApiError(400, "bad_request", "the form is not in the charset it tells") from None
    try:
        yield form
    finally:
        await form.close()


async def _json(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_JSON_BYTES:
            raise ApiError(413, "too_large", f"the JSON is larger than {_MAX_JSON_BYTES} bytes")
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "bad_request", "the body is not JSON") from None
    if not isinstance(plain, dict):
        raise ApiError(422, "invalid_field", "the JSON must be an object with the key url")
    return plain


def _check_fields(file: Any, items: Mapping[str, Any]) -> None:
    if file is None:
        hint = 'send the video as multipart field \'file\', or JSON {"url": "https://..."}'
        raise ApiError(422, "missing_field", f"file is missing: {hint}")
    if not isinstance(file, UploadFile):
        raise ApiError(422, "invalid_field", "file must be a file part with a file name")
    for name, value in items.items():
        if isinstance(value, UploadFile):
            shown = client_name(name)
            raise ApiError(422, "invalid_field", f"{shown!r} is a file: only 'file' may be one")


def _once(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in items:
        if name in found:
            raise ApiError(422, "invalid_field", f"{client_name(name)!r} is given twice")
        found[name] = value
    return found


def _merged(query: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    return _once([*query.items(), *body.items()])
