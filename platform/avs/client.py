"""A client of the service: masks of a video in one call, from Python.

    with avs.Client("http://127.0.0.1:8000") as client:
        track = client.segment("clip.mp4", masks_per_s=4)

Synchronous and small. Uploads and downloads go through in pieces, so memory does not grow with the
video; importing it does not import torch.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx

from avs.client_batches import BatchCalls
from avs.client_http import Sender, ServiceError, lines, not_understood, parsed, streamed_error
from avs.client_upload import Progress, Watch, upload
from avs.errors import ConfigError

if TYPE_CHECKING:
    from avs.inference.track import MaskTrack

__all__ = ["Client", "Progress", "ServiceError"]

_CONNECT_TIMEOUT_S = 10.0
MasksPerSecond = int | Literal["native"]
SavedFormat = Literal["png", "npz", "overlay", "matte", "rle_json"]


class Client(BatchCalls):
    """Talks to one service. ``video`` is a local file, or an ``https://`` or ``s3://`` address that
    the service fetches.

    All methods raise ServiceError where the service refuses or cannot be reached, and MediaError
    where a local file cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 600.0,
        retries: int = 5,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``timeout_s``: how long the service may be silent. ``retries``: how often a request is
        sent again that was not answered, or with 429 or 503. ``transport``: httpx's own unless
        given."""
        headers = {"X-AVS-Client": "python"}
        if token is not None:
            headers["Authorization"] = f"Bearer {_checked_token(token)}"
        self._http = httpx.Client(
            base_url=_checked_url(url),
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
            follow_redirects=False,
            transport=transport,
        )
        self._sender = Sender(self._http, retries=retries, sleep=sleep)
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used any more."""
        self._http.close()

    def segment(
        self,
        video: str | Path,
        *,
        masks_per_s: MasksPerSecond = 1,
        threshold: float | None = None,
        max_duration_s: float | None = None,
        objects: bool = False,
        model: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> MaskTrack:
        """All masks of a video. ``threshold``: probability in 0..1. ``objects``: tell every
        visible object. ``model``: a name of :meth:`models`."""
        from avs.inference.track import FORMAT_VERSION, MaskTrack

        kind = "stream" if progress else "rle_json"
        params = _params(kind, masks_per_s, threshold, max_duration_s, objects, model)
        if not progress:
            with self._answer(video, params, Watch(None)) as response:
                return MaskTrack.from_json(parsed(response.read()))
        head: dict[str, Any] = {}
        masks: list[Any] = []
        for event in self._events(video, params, Watch(progress)):
            masks += event.get("masks", [])
            head |= event  # the warnings of the end replace those of the start
        return MaskTrack.from_json({**head, "format": FORMAT_VERSION, "masks": masks})

    def save(
        self,
        video: str | Path,
        target: str | Path,
        *,
        format: SavedFormat,  # noqa: A002 (what the service calls it)
        masks_per_s: MasksPerSecond = 1,
        threshold: float | None = None,
        max_duration_s: float | None = None,
        objects: bool = False,
        model: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Path:
        """Write an answer to ``target``, which appears, or is replaced, when all has come."""
        target = Path(target)
        if target.is_dir() or not target.parent.is_dir():
            raise ConfigError(f"target={target} must name a file in a folder that exists.")
        params = _params(format, masks_per_s, threshold, max_duration_s, objects, model)
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with (
                part.open("xb") as file,  # before the work: a full or locked folder is told at once
                self._answer(video, params, Watch(progress)) as response,
            ):
                for chunk in response.iter_bytes():
                    file.write(chunk)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    def stream(
        self,
        video: str | Path,
        *,
        masks_per_s: MasksPerSecond = 1,
        threshold: float | None = None,
        max_duration_s: float | None = None,
        objects: bool = False,
        model: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """The events ``start``, ``masks`` (a round of windows each) and ``end`` as they come.

        Closing the iterator stops the work of the service. One that breaks off raises ServiceError
        and never just ends.
        """
        params = _params("stream", masks_per_s, threshold, max_duration_s, objects, model)
        return self._events(video, params, Watch(progress))

    def models(self) -> list[dict[str, Any]]:
        """What is served: name, network, classes, metrics and model card of each."""
        with self._sender.answer(
            "GET", "v1/models", body=lambda: nullcontext({}), params={}
        ) as response:
            plain = parsed(response.read())
        try:
            return list(plain["models"])
        except (KeyError, TypeError):
            raise not_understood() from None

    @contextmanager
    def _answer(
        self, video: str | Path, params: dict[str, str], watch: Watch
    ) -> Iterator[httpx.Response]:
        body = partial(upload, video, watch)
        with self._sender.answer("POST", "v1/segment", body=body, params=params) as response:
            yield response

    def _events(
        self, video: str | Path, params: dict[str, str], watch: Watch
    ) -> Generator[dict[str, Any], None, None]:
        with self._answer(video, params, watch) as response:
            for line in lines(response):
                event = parsed(line)
                if not isinstance(event, dict) or "event" not in event:
                    raise not_understood()
                if event["event"] == "error":
                    raise streamed_error(event)
                watch.saw(event)
                yield event
                if event["event"] == "end":
                    return
        raise ServiceError(None, "cut_off", "the stream broke off before its end")


def _params(
    kind: str,
    masks_per_s: MasksPerSecond,
    threshold: float | None,
    max_duration_s: float | None,
    objects: bool,
    model: str | None,
) -> dict[str, str]:
    """The options in the query; what was not given is the service's to choose."""
    given = {"threshold": threshold, "max_duration_s": max_duration_s, "model": model}
    params = {"format": kind, "masks_per_s": str(masks_per_s)}
    params |= {name: str(value) for name, value in given.items() if value is not None}
    return {**params, "objects": "true"} if objects else params


def _checked_url(url: str) -> httpx.URL:
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        found = httpx.URL()
    if found.scheme not in ("http", "https") or not found.host:
        raise ConfigError(f"url={url} must be the address of a service, as http://127.0.0.1:8000.")
    return found


def _checked_token(token: str) -> str:
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError("token= has a character that no token has.")  # not shown: it is a secret
    return token
