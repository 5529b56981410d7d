"""Where uploads lie while they are worked on: small ones in Ray's object store, large ones in a
folder or S3 prefix that every decoder reaches.

Each is removed when its request ends; what a killed replica left is removed when a service starts
or stops.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avs import storage
from avs.errors import ConfigError

__all__ = ["Scratch", "default_scratch"]

_FOLDER = "avs-uploads"


def default_scratch() -> str:
    """This machine's temporary folder."""
    return tempfile.gettempdir()


class Scratch:
    """Uploads below ``uri``, in a folder of this service's own."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.join(storage.absolute(uri), _FOLDER)

    def clear(self) -> None:
        """Remove what earlier services left; the folder is for this user's eyes alone.

        Raises ConfigError where it belongs to another user.
        """
        storage.remove(self.uri)
        if storage.is_local(self.uri):
            folder = Path(storage.absolute(self.uri))
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise ConfigError(f"{folder} belongs to another user: give another scratch=.")

    def put(self, path: Path) -> str:
        """Move a finished local file there; returns its URI."""
        uri = storage.join(self.uri, uuid.uuid4().hex)
        storage.make_folder(self.uri)
        storage.put_file(path, uri)
        return uri

    def remove(self, uri: str) -> None:
        """Remove one upload; nothing happens when it is gone."""
        storage.remove(uri)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A local folder for a download, on the same disk where scratch is local."""
        parent = None
        if storage.is_local(self.uri):
            storage.make_folder(self.uri)
            parent = storage.absolute(self.uri)
        with tempfile.TemporaryDirectory(prefix="avs-", dir=parent) as name:
            yield Path(name)
