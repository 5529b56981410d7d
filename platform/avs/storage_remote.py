"""What can go wrong between here and a bucket: tried again, or said in words without secrets.

botocore repeats a request that got no answer, 5xx or "slow down", with exponential back-off and
jitter; :class:`RemoteFiles` adds the bodies that stop, stall or come short, by starting the whole
operation anew. s3fs's own retries are off: they would multiply with both, and go on in the middle
of an object that may have changed meanwhile. Credentials never leave this module in a message.
"""

from __future__ import annotations

import functools
import io
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fsspec

from avs.errors import AvsError, DataError

__all__ = [
    "ATTEMPTS",
    "RangeReader",
    "RemoteFiles",
    "StorageError",
    "cut_credentials",
    "refuse_credentials",
]

ATTEMPTS = 5
FIRST_WAIT_S = 0.25
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0

_HIDDEN = "***"
# The user part has no slash, which tells it from a key such as s3://bucket/a:b@c; the secret may.
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]+:[^\s@]*@")
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}\b")
_SIGNED = re.compile(
    r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token)|aws_secret_access_key"
    r"|aws_session_token|Authorization)\b(\s*[=:]\s*)[^\s&\"']+"
)
_SECRET_KEY = re.compile(r"(?i)(secret|password|passwd|access_key|session_token|credential)")
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_MIN_SECRET_LENGTH = 8
# Two conditional writes at once: S3 asks the loser to come again.
_RACES = frozenset(("ConditionalRequestConflict", "OperationAborted"))


class StorageError(AvsError, OSError):
    """A storage that still failed after all attempts; later it may work."""


class RemoteFiles:
    """The fsspec file system of a scheme in this process; its methods are tried again.

    ``RemoteFiles(uri, "s3").cat_file(path)`` is that method of s3fs, and raises

    - FileNotFoundError, FileExistsError: as the file system says.
    - DataError: it will not work later either: no access, no credentials, no such bucket.
    - StorageError: the storage failed :data:`ATTEMPTS` times.

    Messages name ``uri``.
    """

    def __init__(self, uri: str, scheme: str) -> None:
        own = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
        config = {
            "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
        }
        # A cached listing would hide what other processes have written or removed since.
        self._fs = fsspec.filesystem(scheme, use_listings_cache=False, config_kwargs=config | own)
        self._fs.retries = 1
        self._uri = uri

    def iter_below(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name below ``path`` and what S3 lists of each object, a page of them in memory at a time;
        of an object itself ".". Left out are objects that only stand for a folder, as consoles make
        them."""
        bucket, _, key = path.partition("/")
        prefix = f"{key.rstrip('/')}/" if key else ""
        place: dict[str, str] = {}
        is_empty = True
        while True:
            page = self.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **place)
            for info in page.get("Contents", ()):
                is_empty = False
                if not info["Key"].endswith("/"):
                    yield info["Key"].removeprefix(prefix), info
            if not page.get("IsTruncated"):
                break
            place = {"ContinuationToken": page["NextContinuationToken"]}
        if is_empty and key and self.isfile(path):
            info = self.info(path)
            yield ".", {"Size": info["size"], "ETag": info.get("ETag", "")}

    def __getattr__(self, name: str) -> Any:
        return functools.partial(_call, self._uri, getattr(self._fs, name))


def _call(uri: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    for attempt in range(ATTEMPTS):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if _code(error) == "NoSuchBucket":
                raise DataError(f"{uri}: there is no bucket {uri.split('/')[2]}.") from None
            if not _is_remote(error) or isinstance(error, (FileNotFoundError, FileExistsError)):
                raise
            if attempt + 1 == ATTEMPTS or not _is_worth_another(error):
                # "from None": the cause names the endpoint, which may hold a password
                raise _explained(uri, error) from None
        time.sleep(FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0))
    raise AssertionError("the last attempt returns or raises")


class RangeReader(io.RawIOBase):
    """An object read by ranges, one request each and tried again; for formats that read parts."""

    def __init__(self, files: RemoteFiles, path: str) -> None:
        self._files, self._path, self._at = files, path, 0
        self._size_bytes = int(files.info(path)["size"])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence]
        self._at = base + offset
        return self._at

    def readall(self) -> bytes:
        return self.read(self._size_bytes - self._at) or b""

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        end = min(self._at + len(target), self._size_bytes)
        if end <= self._at:
            return 0
        data: bytes = self._files.cat_file(self._path, start=self._at, end=end)
        target[: len(data)] = data
        self._at += len(data)
        return len(data)


def refuse_credentials(uri: str) -> None:
    """Raise DataError when ``uri`` or the endpoint carries credentials, which logs would show."""
    if _IN_ADDRESS.search(uri):
        raise DataError(
            f"{cut_credentials(uri)} has credentials in it. Give them by AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile in ~/.aws or the machine's role."
        )
    for name in _ENDPOINT_VARIABLES if uri.startswith("s3://") else ():
        if _IN_ADDRESS.search(os.environ.get(name, "")):
            raise DataError(
                f"{name}={cut_credentials(os.environ[name])} has credentials in it, which S3 does "
                "not take there. Give them by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )


def cut_credentials(value: Any) -> Any:
    """``value`` (a text, or plain lists and mappings of a configuration) without credentials.

    Cut are user:password in addresses, AWS keys, signatures, what the AWS_* variables hold, and
    the values of keys whose names say that they are secret.
    """
    if isinstance(value, Mapping):
        return {
            k: _HIDDEN if v and _SECRET_KEY.search(str(k)) else cut_credentials(v)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [cut_credentials(v) for v in value]
    if not isinstance(value, str):
        return value
    for name in _SECRET_VARIABLES:
        secret = os.environ.get(name, "")
        if len(secret) >= _MIN_SECRET_LENGTH:
            value = value.replace(secret, _HIDDEN)
    value = _IN_ADDRESS.sub(f"{_HIDDEN}@", value)
    value = _SIGNED.sub(rf"\1\2{_HIDDEN}", value)
    return _KEY_ID.sub(_HIDDEN, value)


def _is_remote(error: Exception) -> bool:
    package = type(error).__module__.partition(".")[0]
    known = package in ("botocore", "aiobotocore", "aiohttp", "fsspec", "s3fs")
    return known or isinstance(error, (OSError, TimeoutError))


def _is_worth_another(error: Exception) -> bool:
    """Whether the body failed, or a race was lost; requests were repeated by botocore already."""
    from aiohttp import ClientConnectionError, ClientPayloadError
    from botocore.exceptions import (
        HTTPClientError,
        IncompleteReadError,
        ReadTimeoutError,
        ResponseStreamingError,
    )

    if _code(error) in _RACES:
        return True
    if isinstance(error, HTTPClientError):
        return isinstance(error, (ResponseStreamingError, ReadTimeoutError))
    body = (ClientPayloadError, ClientConnectionError, IncompleteReadError)
    return isinstance(error, (*body, ConnectionError, TimeoutError))


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _explained(uri: str, error: Exception) -> AvsError:
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError, ProfileNotFound

    where, reason = cut_credentials(uri), cut_credentials(str(error) or type(error).__name__)
    if isinstance(error, PermissionError):
        return DataError(
            f"{where}: access is denied ({reason}). Check the credentials and their rights."
        )
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, ProfileNotFound)):
        return DataError(
            f"{where}: no credentials ({reason}). Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run where the machine has a role."
        )
    return StorageError(f"{where}: the storage failed {ATTEMPTS} times, last by: {reason}")
