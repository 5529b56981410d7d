"""The storage that jobs write to: write, read, list, conditional create, remove; and its clock.

Conditional create is what the lease of an output folder stands on. A server that ignores
``If-None-Match`` answers the second create as if it had made the file, and two runs would write
into one folder without noticing.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

from avs import storage
from avs.doctor.finding import Finding, fail, ok, skip, warn
from avs.errors import AvsError
from avs.storage_remote import RemoteFiles

__all__ = ["judge_clock", "look_at_clock", "look_at_storage"]

_SIZE_BYTES = 1_000_000
# Services refuse signatures that are 5 (some) to 15 minutes (AWS) off, tokens likewise.
_REFUSED_S = 300.0
_ODD_S = 2.0
_CREDENTIALS = "check the address, the credentials and that they allow it (s3:PutObject, ...)"
_SYNC = "run chronyd or ntpd, and see: timedatectl"


def look_at_storage(uri: str | None) -> Sequence[Finding]:
    """Everything that jobs do there, in a folder of its own that is removed."""
    if uri is None:
        return [skip("storage", "none was given", "storage=s3://BUCKET/PREFIX or a folder")]
    try:
        existed = storage.exists(uri)
        folder = storage.join(uri, f"_avs-doctor-{uuid.uuid4().hex[:8]}")
    except (AvsError, OSError) as error:
        return [fail("storage", str(error), _CREDENTIALS)]
    try:
        return _use(folder)
    finally:
        with suppress(AvsError, OSError):
            storage.remove(folder)
            if storage.is_local(uri) and not existed:
                Path(storage.absolute(uri)).rmdir()


def _use(folder: str) -> list[Finding]:
    data, name = uuid.uuid4().bytes * (_SIZE_BYTES // 16), storage.join(folder, "a file")
    begun_s = time.perf_counter()
    step = "cannot be written"
    try:
        storage.write_bytes(name, data)
        step = "cannot be read"
        if storage.read_bytes(name) != data:
            cure = "do not use it: what is read is not what was written"
            return [fail("storage", f"{name} came back changed", cure)]
        step = "cannot be listed"
        listed = [info.path for info in storage.list_files(folder)]
        if listed != ["a file"]:
            cure = "do not use it: a listing must show what was written before"
            return [fail("storage", f"{folder} lists {listed or 'nothing'}", cure)]
        found = [ok("storage", f"{folder}: written, read, listed in {_passed(begun_s)}")]
        step = "refuses a conditional create"
        found.append(_create_twice(storage.join(folder, "made once")))
        step = "cannot be removed"
        storage.remove(name)
        if storage.exists(name):
            return [*found, fail("storage", f"{name} is there after it was removed", _CREDENTIALS)]
    except (AvsError, OSError) as error:
        return [fail("storage", f"{step}: {error}", _CREDENTIALS)]
    return found


def _create_twice(name: str) -> Finding:
    first, second = storage.create_exclusive(name, b"1"), storage.create_exclusive(name, b"2")
    if not first:
        told = "a file that was not there could not be made"
        return fail("conditional create", told, "take a storage that knows If-None-Match")
    if second or storage.read_bytes(name) != b"1":
        cure = (
            "take a storage that honours If-None-Match (AWS S3, MinIO, Ceph from Squid, R2): "
            "here two runs could write one folder"
        )
        return fail("conditional create", "a second create replaced the first file", cure)
    return ok("conditional create", "the second of two was refused")


def look_at_clock(uri: str | None) -> Sequence[Finding]:
    """This machine's clock against that of the storage."""
    if uri is None:
        return [skip("clock", "no storage to compare with", "storage=s3://BUCKET/PREFIX")]
    try:
        behind_s = _local_s(uri) if storage.is_local(uri) else _remote_s(uri)
    except (AvsError, OSError) as error:
        if "TimeTooSkewed" in str(error):
            return [fail("clock", f"the storage refuses it: {error}", _SYNC)]
        return [skip("clock", f"the storage did not tell its time: {error}")]
    return [judge_clock("clock", behind_s, other="the storage")]


def judge_clock(name: str, behind_s: float, *, other: str) -> Finding:
    """How bad a difference is. behind_s: the other clock minus this one, in seconds.

    The lease compares no clocks; signatures and tokens do, and so does who reads logs.
    """
    told = f"{behind_s:+.1f} s to {other}"
    if abs(behind_s) >= _REFUSED_S:
        return fail(name, f"{told}: signed requests and tokens are refused", _SYNC)
    if abs(behind_s) >= _ODD_S:
        return warn(name, f"{told}: log lines of two machines cannot be put in order", _SYNC)
    return ok(name, told)


def _local_s(uri: str) -> float:
    """Of a file system, which may be another machine's: the time it gives to a new file."""
    place = Path(storage.absolute(uri))
    while not place.exists():
        place = place.parent
    with tempfile.NamedTemporaryFile(dir=place, prefix=".avs-doctor-", suffix=".tmp") as file:
        before_s = time.time()
        file.write(b"x")
        file.flush()
        middle_s = (before_s + time.time()) / 2
        return Path(file.name).stat().st_mtime - middle_s


def _remote_s(uri: str) -> float:
    """Of an S3: the Date of an answer, whole seconds, so the middle of one."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    before_s = time.time()
    answer = RemoteFiles(uri, "s3").call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
    middle_s = (before_s + time.time()) / 2
    date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
    return parsedate_to_datetime(date).timestamp() + 0.5 - middle_s


def _passed(begun_s: float) -> str:
    return f"{time.perf_counter() - begun_s:.2f} s"
