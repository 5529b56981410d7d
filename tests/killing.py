"""Processes that die: for tests of what is left when they do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["kill_all", "wait_until"]


def kill_all(mark: str) -> None:
    """SIGKILL every process that inherited ``mark`` (NAME=value) in its environment."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)


def wait_until(
    happened: Callable[[], bool], job: subprocess.Popen[bytes], *, deadline_s: float = 240
) -> None:
    """Poll until ``happened``; fails when ``job`` ends or the deadline passes before."""
    end_s = time.monotonic() + deadline_s
    while not happened():
        assert job.poll() is None, "the job ended too early"
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)
