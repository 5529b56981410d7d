"""How often the input is listed: once, or again and again for what is new."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from avs import storage
from avs.inference.bucket.job import Video

__all__ = ["looks", "new_videos"]


def looks(
    listing: Callable[[], Iterable[Video]], *, every_s: float | None
) -> Iterator[Iterable[Video]]:
    """The videos of each look at the input that no earlier one gave: one look, or one ``every_s``
    after the end of the last, until the job is stopped."""
    if every_s is None:
        yield listing()
        return
    taken: dict[str, str] = {}
    growing: dict[str, str] = {}
    while True:
        yield new_videos(listing(), taken, growing)
        time.sleep(every_s)


def new_videos(
    listing: Iterable[Video], taken: dict[str, str], growing: dict[str, str]
) -> Iterator[Video]:
    """What is new or changed since it was ``taken``, which learns of it (name -> version).

    An object of S3 is whole when it is there. A local file may still be being written: it waits in
    ``growing`` until two looks find it the same.
    """
    before = dict(growing)
    growing.clear()
    for video in listing:
        source = video.source
        version = f"{source.size_bytes} {source.version}"
        if taken.get(video.name) == version:
            continue
        if storage.is_local(source.uri) and before.get(video.name) != version:
            growing[video.name] = version
            continue
        taken[video.name] = version
        yield video
