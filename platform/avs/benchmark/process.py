"""One measured command: wall time, and the peak memory of it with all its descendants."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from avs.errors import AvsError

__all__ = ["Usage", "run_measured"]

_SAMPLE_EVERY_S = 0.5
# The kernel walks all pages for a sample: of Ray's processes, twice a second cost 7 % of the run.
_SAMPLE_SHARE = 0.01
# One thread a process: with more, two contenders would differ by how they share the cores.
_PINNED = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Wall-clock start (Unix time), seconds, and peak resident bytes (shared pages count once)."""

    started_s: float
    seconds: float
    peak_bytes: int


def run_measured(command: Sequence[str]) -> Usage:
    """Run a command to its end.

    Raises:
        AvsError: it failed; the message holds the command and the end of what it printed.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    started_s, began = time.time(), time.monotonic()
    peak_bytes = 0
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**environment, **_PINNED}
        )
        try:
            while True:
                sample_s = time.monotonic()
                peak_bytes = max(peak_bytes, _tree_bytes(child.pid))
                sample_s = time.monotonic() - sample_s
                try:
                    child.wait(max(_SAMPLE_EVERY_S, sample_s / _SAMPLE_SHARE))
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            child.kill()
        seconds = time.monotonic() - began
        if child.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace")[-800:]
            raise AvsError(f"{' '.join(command)} ended with {child.returncode}: {said}")
    return Usage(started_s=started_s, seconds=seconds, peak_bytes=peak_bytes)


def _tree_bytes(pid: int) -> int:
    """Proportional set size of a process and its descendants: shared pages count once."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
    except psutil.NoSuchProcess:
        pass
    return total
