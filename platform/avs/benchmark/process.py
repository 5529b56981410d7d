"""Measured commands: wall time and peak memory from outside, or figures that a child reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from avs.errors import AvsError

__all__ = ["KilledError", "Usage", "plain_environment", "run_measured", "run_reporting"]

_SAMPLE_EVERY_S = 0.5
# The kernel walks all pages for a sample: of Ray's processes, twice a second cost 7 % of the run.
_SAMPLE_SHARE = 0.01
# glibc otherwise keeps freed blocks of up to 32 MB, more of them in each run.
_RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class KilledError(AvsError):
    """The kernel ended a child: most often the machine had no memory left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Wall-clock start (Unix time), seconds, and peak resident bytes (shared pages count once)."""

    started_s: float
    seconds: float
    peak_bytes: int


def run_measured(command: Sequence[str], *, num_threads: int = 1) -> Usage:
    """Run a command to its end, each of its processes with ``num_threads`` threads.

    The same for all contenders, or they would differ by how their processes share the cores.

    Raises:
        AvsError: it failed; the message holds the command and the end of what it printed.
    """
    started_s, began = time.time(), time.monotonic()
    peak_bytes = 0
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=_environment(num_threads=num_threads)
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
            raise _failure(command, child.returncode, log.read())
    return Usage(started_s=started_s, seconds=seconds, peak_bytes=peak_bytes)


def run_reporting(
    command: Sequence[str], *, num_threads: int, return_freed: bool = False
) -> dict[str, float]:
    """Run a command with ``num_threads`` threads; its last line is a JSON object of figures.

    ``return_freed``: freed memory goes back to the system at once, so that a peak is what was in
    use at once; that takes time, so such a run's seconds say little.

    Raises:
        KilledError: it was killed, as for memory. AvsError: it failed; the message holds the
            command and the end of what it printed.
    """
    done = subprocess.run(
        command,
        capture_output=True,
        env={**_environment(num_threads=num_threads), **(_RETURN_FREED if return_freed else {})},
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        raise KilledError(f"{' '.join(command)} was killed: too little memory on this machine")
    if done.returncode:
        raise _failure(command, done.returncode, done.stdout + done.stderr)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def plain_environment() -> dict[str, str]:
    """Ours without what is meant for Ray, for the service or for the threads of this process."""
    left_out = (*_THREADS, "AVS_API_TOKENS")
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k not in left_out}


def _environment(*, num_threads: int) -> Mapping[str, str]:
    """Ours without Ray's, with the threads pinned."""
    return plain_environment() | dict.fromkeys(_THREADS, str(num_threads))


def _failure(command: Sequence[str], code: int, said: bytes) -> AvsError:
    end = said.decode(errors="replace")[-800:]
    return AvsError(f"{' '.join(command)} ended with {code}: {end}")


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
