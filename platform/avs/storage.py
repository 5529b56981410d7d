"""Files by URI, local or ``s3://``, with writes that are whole or absent.

A plain path is local, ``s3://bucket/key`` goes through s3fs (credentials and ``AWS_ENDPOINT_URL``
from the usual places). File systems are made lazily in the process that uses them, because an
s3fs instance survives neither a fork nor a pickle. Local writes go to a hidden temporary name and
are renamed; an S3 object appears only when its one put has ended.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from avs.errors import DataError

__all__ = [
    "FileInfo",
    "absolute",
    "create_exclusive",
    "exists",
    "file_version",
    "is_folder",
    "is_local",
    "join",
    "list_files",
    "local_copy",
    "make_folder",
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
    return path if scheme == "file" else f"{scheme}://{path}"


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


def list_files(uri: str) -> list[FileInfo]:
    """All files below ``uri``, sorted by path; hidden temporary files are left out."""
    _, fs, path = _open(uri)
    fs.invalidate_cache()
    found = fs.find(path, detail=True)
    infos = [
        FileInfo(os.path.relpath(name, path), int(info["size"] or 0), _version(info))
        for name, info in found.items()
        if not name.endswith(".tmp") and not _is_marker(info)
    ]
    return sorted(infos, key=lambda info: info.path)


def file_version(uri: str) -> tuple[int, str]:
    """Size in bytes and etag (S3) or modification time in ns (local) of one file."""
    _, fs, path = _open(uri)
    try:
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


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part."""
    scheme, fs, path = _open(uri)
    if scheme != "file":
        fs.pipe_file(path, data)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


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
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file only if it is not there yet; True when this call made it."""
    scheme, fs, path = _open(uri)
    if scheme == "file":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # A hard link appears with its content in one step, which O_EXCL + write would not.
        temporary = temporary_name(path)
        temporary.write_bytes(data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def put_file(local: str | Path, uri: str) -> None:
    """Move a finished local file to ``uri``: a rename, from another disk a copy; S3: one put."""
    scheme, fs, path = _open(uri)
    if scheme != "file":
        fs.put_file(str(local), path)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        Path(local).replace(path)
    except OSError:  # another disk
        temporary = temporary_name(path)
        shutil.copyfile(local, temporary)
        temporary.replace(path)
        Path(local).unlink()


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


def temporary_name(path: str | Path) -> Path:
    """A hidden name beside ``path`` that no listing takes for a finished file."""
    final = Path(path)
    return final.with_name(f".{final.name[:80]}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def _open(uri: str) -> tuple[str, Any, str]:
    match = _SCHEME.match(uri)
    scheme = match.group(1) if match else "file"
    if scheme not in _KNOWN_SCHEMES:
        raise DataError(f"{uri}: {scheme}:// is not known. Known: a local path, s3://.")
    if scheme == "file":
        bare = uri.removeprefix("file://")
        return scheme, fsspec.filesystem("file"), str(Path(bare).expanduser().absolute())
    # A cached listing would hide what other processes have written or removed since.
    fs = fsspec.filesystem(scheme, use_listings_cache=False)
    return scheme, fs, uri[len(scheme) + 3 :].rstrip("/")


def _is_marker(info: dict[str, Any]) -> bool:
    """Whether an S3 object only stands for a folder, as consoles make them."""
    return str(info.get("Key", "")).endswith("/")


def _version(info: dict[str, Any]) -> str:
    if "ETag" in info:
        return str(info["ETag"]).strip('"')
    return str(int(float(info.get("mtime", 0)) * 1e9))
