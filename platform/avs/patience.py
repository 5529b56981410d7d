"""Waiting for storage that is away: a bucket or a network that comes back costs time, no work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from avs.storage_remote import StorageError

__all__ = ["PATIENCE_S", "PAUSE_S", "patiently"]

T = TypeVar("T")

PATIENCE_S = 300.0
PAUSE_S = 5.0


def patiently(call: Callable[[], T]) -> T:
    """Again and again while the storage fails, for some minutes, which outlives what a bucket or a
    network usually takes. All of ``call`` is done again, since what it wrote may be overwritten."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except StorageError:
            if time.monotonic() >= end_s:
                raise
        time.sleep(PAUSE_S)
