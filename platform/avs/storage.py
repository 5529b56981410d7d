"""Files by URI, local or ``s3://``, with writes that are whole or absent.

A plain path is local, ``s3://bucket/key`` goes through s3fs (credentials and ``AWS_ENDPOINT_URL``
from the usual places; an address with credentials in it is refused). File systems are made lazily
in the process that uses them, because an s3fs instance survives neither a fork nor a pickle. Local
writes go to a hidden temporary name and are renamed; an S3 object appears only when its one put
has ended. Failures of S3 are tried again; see :mod:`avs.storage_remote` for what is raised then.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from avs.errors import DataError
from avs.storage_local import (
    create_whole,
    move_whole,
    temporary_name,
    walk_files,
    write_whole,
)
from avs.storage_remote import RangeReader, RemoteFiles, refuse_credentials

__all__ = [
    "FileInfo",
    "absolute",
    "create_exclusive",
    "exists",
    "file_version",
    "is_folder",
    "is_local",
    "iter_files",
    "join",
    "list_files",
    "local_copy",
    "make_folder",
    "open_file",
    "put_file",
    "read_bytes",
    "read_json",
    "remove",
    "remove_temporaries",
    "temporary_name",
    "write_bytes",
    "write_json",
]

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://")
_KNOWN_SCHEMES = ("s3", "file")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of a listing: ``path`` relative to the listed folder, size, and etag or mtime."""

    path: str
    size_bytes: int
    version: str


def is_local(uri: str) -> bool:
    """True for a path on this machine (or ``file://``)."""
    return _open(uri)[0] == "file"


def absolute(uri: str) -> str:
    """``uri`` with a local path made absolute, so that workers in other folders find it."""
    scheme, _, path = _open(uri)
    return os.path.normpath(path) if scheme == "file" else f"{scheme}://{path}"


def join(uri: str, *parts: str) -> str:
    """Append ``parts`` to ``uri`` with single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    """True when a file or folder is there."""
    _, fs, path = _open(uri)
    return bool(fs.exists(path))


def is_folder(uri: str) -> bool:
    """True when ``uri`` is a folder, or an S3 prefix that holds something."""
    _, fs, path = _open(uri)
    return bool(fs.isdir(path))


def make_folder(uri: str) -> None:
    """Make a local folder; S3 needs none."""
    scheme, _, path = _open(uri)
    if scheme == "file":
        Path(path).mkdir(parents=True, exist_ok=True)


def iter_files(uri: str) -> Iterator[FileInfo]:
    """The files below ``uri`` as the storage lists them, links followed, page by page: a bucket of
    millions takes the memory of a page. Temporary files are left out; of a file itself: "."."""
    scheme, fs, path = _open(uri)
    if scheme == "file":
        infos = (FileInfo(n, st.st_size, _local_version(st)) for n, st in walk_files(path))
    else:
        infos = (
            FileInfo(name, int(info["Size"] or 0), _version(info))
            for name, info in fs.iter_below(path)
        )
    return (info for info in infos if not info.path.endswith(".tmp"))


def list_files(uri: str) -> list[FileInfo]:
    """All files of :func:`iter_files`, sorted by path."""
    return sorted(iter_files(uri), key=lambda info: info.path)


def file_version(uri: str) -> tuple[int, str]:
    """Size in bytes and etag (S3) or modification time in ns (local) of one file."""
    scheme, fs, path = _open(uri)
    try:
        if scheme == "file":
            status = Path(path).stat()
            return status.st_size, _local_version(status)
        info = fs.info(path)
    except FileNotFoundError:
        raise DataError(f"{uri} does not exist.") from None
    return int(info["size"] or 0), _version(info)


def read_bytes(uri: str) -> bytes:
    """The whole content of a file.

    Raises:
        DataError: there is no such file.
    """
    _, fs, path = _open(uri)
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        raise DataError(f"{uri} does not exist.") from None


def open_file(uri: str) -> BinaryIO:
    """A file to read in parts; of an S3 object no more than these is fetched.

    Raises:
        DataError: there is no such file.
    """
    scheme, fs, path = _open(uri)
    try:
        if scheme == "file":
            return Path(path).open("rb")
        return cast(BinaryIO, RangeReader(fs, path))  # its reads are never short
    except FileNotFoundError:
        raise DataError(f"{uri} does not exist.") from None


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part."""
    scheme, fs, path = _open(uri)
    if scheme != "file":
        fs.pipe_file(path, data)
        return
    write_whole(path, data)


def read_json(uri: str) -> Any:
    """Parse a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise DataError(f"{uri} is not valid JSON ({error}).") from None


def write_json(uri: str, value: Any) -> None:
    """Write indented JSON atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # Odd bytes of a file's name are lone surrogates, which this turns into JSON's own escapes.
    write_bytes(uri, text.encode(errors="backslashreplace"))


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file only if it is not there yet; True when this call made it."""
    scheme, fs, path = _open(uri)
    if scheme == "file":
        return create_whole(path, data)
    token = uuid.uuid4().hex
    try:
        fs.pipe_file(path, data, mode="create", Metadata={"token": token})
    except FileExistsError:
        # Perhaps our own first try made it and its answer was lost: HTTP clients send again.
        return _metadata(fs, path).get("token") == token
    return True


def put_file(local: str | Path, uri: str) -> None:
    """Move a finished local file to ``uri``: a rename, from another disk a copy; S3: one put."""
    scheme, fs, path = _open(uri)
    if scheme != "file":
        fs.put_file(str(local), path)
        return
    move_whole(local, path)


def remove(uri: str) -> None:
    """Remove a file or a folder with all it holds; nothing happens when it is absent."""
    scheme, fs, path = _open(uri)
    if scheme != "file":
        for name in fs.find(path):  # fs.rm takes "[1]" or "*" in a name for a pattern
            fs.rm_file(name)
    elif fs.exists(path):
        fs.rm(path, recursive=True)


@contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path with the content of ``uri``; a download is removed on exit."""
    scheme, fs, path = _open(uri)
    if scheme == "file":
        if not Path(path).exists():
            raise DataError(f"{uri} does not exist.")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="avs-") as folder:
        target = str(Path(folder) / ("object" + Path(path).suffix))
        try:
            fs.get_file(path, target)
        except FileNotFoundError:
            raise DataError(f"{uri} does not exist.") from None
        yield target


def remove_temporaries(uri: str) -> None:
    """Remove what writers that were killed left below a local folder; S3 shows no parts."""
    scheme, _, path = _open(uri)
    if scheme == "file":
        for left in Path(path).rglob(".*.tmp"):
            left.unlink(missing_ok=True)


def _open(uri: str) -> tuple[str, Any, str]:
    refuse_credentials(uri)
    match = _SCHEME.match(uri)
    scheme = match.group(1) if match else "file"
    if scheme not in _KNOWN_SCHEMES:
        raise DataError(f"{uri}: {scheme}:// is not known. Known: a local path, s3://.")
    if scheme == "file":
        bare = uri.removeprefix("file://")
        return scheme, fsspec.filesystem("file"), str(Path(bare).expanduser().absolute())
    return scheme, RemoteFiles(uri, scheme), uri[len(scheme) + 3 :].rstrip("/")


def _metadata(fs: Any, path: str) -> dict[str, str]:
    try:
        return dict(fs.metadata(path, refresh=True))
    except FileNotFoundError:  # removed meanwhile
        return {}


def _local_version(status: os.stat_result) -> str:
    return str(int(status.st_mtime * 1e9))


def _version(info: dict[str, Any]) -> str:
    return str(info.get("ETag", "")).strip('"')
