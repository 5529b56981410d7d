"""One writer per output folder: a lease made by conditional create, kept alive by a heartbeat.

The lease file carries the owner and a counter that its owner raises every 5 s. Another run judges
by watching that counter with its own clock (two machines' clocks are never compared): if it moves,
the owner lives and the second run refuses; if it stands still long enough, the owner is dead and
the second run takes over. Every commit checks that the lease is still ours.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from avs import storage
from avs.errors import DataError, LeaseError

__all__ = ["LEASE_NAME", "Lease", "check_owner"]

LEASE_NAME = "_lease.json"


class Lease:
    """Hold ``out`` for this process: ``with Lease(out) as lease: ... lease.check()``.

    Args:
        out: output folder, local or ``s3://``.
        job: name of the job, shown to whoever finds the lease.
        say: called with one line when the start has to wait for a dead owner's lease.
        heartbeat_s, stale_s: period of the counter; standstill after which an owner is dead.

    Raises:
        LeaseError: a living run holds the folder (on entry), or ours was lost (``check``).
    """

    def __init__(
        self,
        out: str,
        *,
        job: str,
        say: Callable[[str], None] = print,
        heartbeat_s: float = 5.0,
        stale_s: float = 30.0,
    ) -> None:
        self.out = out
        self._uri = storage.join(out, LEASE_NAME)
        self._job, self._say = job, say
        self._heartbeat_s, self._stale_s = heartbeat_s, stale_s
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._count = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        while not storage.create_exclusive(self._uri, self._content()):
            self._wait_for_stale()
        self._thread = threading.Thread(target=self._beat, name="avs-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        with suppress(DataError, OSError):  # storage that is away: a lease that stays is soon dead
            if self._is_ours():
                storage.remove(self._uri)

    def check(self) -> None:
        """Raise LeaseError unless the lease is still ours; call before each commit."""
        check_owner(self.out, self.owner)

    def _content(self) -> bytes:
        return json.dumps(
            {"owner": self.owner, "job": self._job, "count": self._count, "time": time.time()}
        ).encode()

    def _is_ours(self) -> bool:
        try:
            self.check()
        except LeaseError:
            return False
        return True

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                if not self._is_ours():
                    return
                self._count += 1
                storage.write_bytes(self._uri, self._content())
            except (DataError, OSError):  # denied or away for a moment: the next beat is in time
                continue

    def _wait_for_stale(self) -> None:
        first = _read(self._uri)
        if first is None:
            return
        age_s = 0.0
        if first["owner"].startswith(f"{socket.gethostname()}-"):
            # Of this machine's clock; at least two heartbeats are watched however old it claims.
            oldest_s = self._stale_s - 2 * self._heartbeat_s
            age_s = min(max(0.0, time.time() - first["time"]), oldest_s)
        deadline = time.monotonic() + self._stale_s - age_s
        self._say(
            f"{self.out} is leased by {first['owner']} ({first['job']}); "
            f"waiting up to {self._stale_s - age_s:.0f} s to see whether that run still lives"
        )
        while time.monotonic() < deadline:
            time.sleep(min(0.5, self._heartbeat_s / 4))
            now = _read(self._uri)
            if now is None:
                return
            if (now["owner"], now["count"]) != (first["owner"], first["count"]):
                raise LeaseError(
                    f"{self.out} is being written by another run ({now['owner']}, {now['job']}). "
                    "Wait for it, stop it, or give another out=."
                )
        if _read(self._uri) == first:
            self._say(f"{self.out}: the run {first['owner']} is dead; going on in its place")
            storage.remove(self._uri)


def check_owner(out: str, owner: str) -> None:
    """Raise LeaseError unless the lease of ``out`` belongs to ``owner`` (usable in any process)."""
    found = _read(storage.join(out, LEASE_NAME))
    if found is None or found["owner"] != owner:
        if found is None:
            raise LeaseError(
                f"{out}: the lease of {owner} was removed, or lies in a folder that this machine "
                "does not share; give an out= that every node reaches. Nothing was committed."
            )
        raise LeaseError(
            f"{out}: the lease of {owner} was lost to {found['owner']}; nothing was committed."
        )


def _read(uri: str) -> dict[str, Any] | None:
    try:
        data = storage.read_bytes(uri)
    except DataError:
        if storage.exists(uri):  # it may not be read, which is not the same
            raise
        return None
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"owner", "job", "count", "time"} <= found.keys():
        raise LeaseError(f"{uri} is not a lease: remove that file if no run writes there.")
    return found
