"""What :mod:`avs.client` sends as a video, and how far it is.

The file is opened for each try and read in pieces by httpx, so an upload of any size needs no more
memory than one piece.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avs.errors import MediaError

__all__ = ["Progress", "Watch", "upload"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a request is: bytes of the file that were sent (0 of 0 for an address), then masks.

    num_expected: about how many masks there will be, None until the service knows the video.
    """

    sent_bytes: int = 0
    total_bytes: int = 0
    num_masks: int = 0
    num_expected: int | None = None


class Watch:
    """Keeps the progress of one request and tells it to ``told``."""

    def __init__(self, told: Callable[[Progress], None] | None) -> None:
        self._told = told
        self._now = Progress()

    def sent(self, num_bytes: int, *, of: int) -> None:
        """So much of the file is on its way; starts again when the request is sent again."""
        self._say(replace(self._now, sent_bytes=num_bytes, total_bytes=of))

    def saw(self, event: dict[str, Any]) -> None:
        """An event of a stream came."""
        if event["event"] == "start":
            duration_s, rate = event.get("duration_s"), event.get("masks_per_s")
            if isinstance(duration_s, int | float) and isinstance(rate, int | float):
                # The last mask of a second that has hardly begun is not made.
                expected = max(1, math.ceil(duration_s * rate - 0.01))
                self._say(replace(self._now, num_expected=expected))
        elif event["event"] == "masks":
            num_masks = self._now.num_masks + len(event.get("masks", []))
            self._say(replace(self._now, num_masks=num_masks))

    def _say(self, now: Progress) -> None:
        self._now = now
        if self._told is not None:
            self._told(now)


@contextmanager
def upload(video: str | Path, watch: Watch) -> Iterator[dict[str, Any]]:
    """The body of a request as httpx takes it: a form with the file, or JSON with the address.

    Raises MediaError where a local file cannot be read, at any time.
    """
    if isinstance(video, str) and "://" in video:
        yield {"json": {"url": video}}
        return
    path = Path(video)
    # A name that is no Unicode cannot be sent as it is; it only serves messages.
    name = path.name.encode("utf-8", "replace").decode()
    with _Watched(path, watch) as file:
        yield {"files": {"file": (name, file, "application/octet-stream")}}


class _Watched(io.BufferedReader):
    """A file whose reading is told of."""

    def __init__(self, path: Path, watch: Watch) -> None:
        with _told(path):
            super().__init__(io.FileIO(path))
            self._total_bytes = os.fstat(self.fileno()).st_size
        self._path, self._watch, self._sent_bytes = path, watch, 0

    def read(self, size: int | None = -1) -> bytes:
        with _told(self._path):
            data = super().read(size)
        self._sent_bytes += len(data)
        self._watch.sent(self._sent_bytes, of=self._total_bytes)
        return data


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror or error}") from error
