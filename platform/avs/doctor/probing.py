"""Probes: scripts run by another interpreter, because what they try may hang or crash it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Probe", "ProbeError", "start_probe"]


class ProbeError(Exception):
    """A probe that gave no answer, with the reason; ``printed`` is all that it said of errors."""

    def __init__(self, reason: str, printed: str = "") -> None:
        super().__init__(reason)
        self.printed = printed or reason


class Probe:
    """A running probe; it and all its children end with :meth:`answer`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def answer(self, *, limit_s: float) -> dict[str, Any]:
        """What the probe printed last, one line of JSON.

        Raises:
            ProbeError: it took longer, or ended without an answer.
        """
        try:
            printed, errors = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise ProbeError(f"no answer within {limit_s:g} s") from None
        finally:
            self._end()
        lines = printed.strip().splitlines()
        with suppress(ValueError, IndexError):
            found: dict[str, Any] = json.loads(lines[-1])
            return found
        code = self._process.returncode
        last = (errors.strip().splitlines() or [f"it ended with code {code}"])[-1]
        raise ProbeError(last, errors)

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def start_probe(
    script: str, arguments: Sequence[str] = (), *, environ: Mapping[str, str] | None = None
) -> Probe:
    """Run a script of this folder with the Python of this process, in a process group of its own.

    environ: what is added to the environment.
    """
    # -P: the modules beside the script must not stand in for others of their names.
    command = [sys.executable, "-P", str(Path(__file__).parent / script), *arguments]
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    return Probe(process)
