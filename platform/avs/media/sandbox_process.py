"""The parent's side of a decoder child: start it, ask it, time it, and replace it.

A used decoder may have been damaged by an earlier file, so that a later one would be blamed: the
caller learns whether the decoder that went away was fresh and may ask again. The supervisor is
trusted, yet every wait for it has a limit too.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from avs.errors import DecoderError
from avs.media.sandbox_limits import (
    DecoderGoneError,
    SandboxLimits,
    SandboxState,
    cause_of_end,
)
from avs.media.sandbox_wire import WireError, receive_message, send_message

__all__ = ["DecoderProcess"]

_START_S = 120.0
_REPLY_S = 10.0
_STOP_S = 2.0
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TMPDIR")


class DecoderProcess:
    """Supervisor and decoder of this process; not for several threads at once."""

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits
        self._pid = os.getpid()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._measures: dict[str, bool] = {}
        self._connection: socket.socket | None = None
        self._decoder_pid = 0
        self._num_calls = 0
        self.busy_s = 0.0  # that calls have taken so far

    def state(self) -> SandboxState:
        """The running child, started if need be."""
        self._ensure_decoder()
        assert self._supervisor is not None
        return SandboxState(
            supervisor_pid=self._supervisor.pid, decoder_pid=self._decoder_pid, **self._measures
        )

    def ask(
        self, request: dict[str, Any], *, deadline_s: float
    ) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """The answer to ``request`` within ``deadline_s`` seconds; raises DecoderGoneError."""
        connection = self._ensure_decoder()
        was_fresh = self._num_calls == 0
        self._num_calls += 1
        begun_s = time.monotonic()
        try:
            connection.settimeout(deadline_s)
            send_message(connection, request)
            return receive_message(
                connection, max_bytes=self._limits.memory_bytes, deadline_s=begun_s + deadline_s
            )
        except TimeoutError:
            self.end_decoder()
            reason = f"took over {round(deadline_s, 1):g} s and was stopped"
            raise DecoderGoneError(reason, was_fresh=was_fresh, was_slow=True) from None
        except WireError as error:
            self.end_decoder()
            reason = f"gave an answer that cannot be used: {error}"
            raise DecoderGoneError(reason, was_fresh=was_fresh) from None
        except (EOFError, OSError):
            reason = cause_of_end(self.end_decoder(), self._limits)
            raise DecoderGoneError(reason, was_fresh=was_fresh) from None
        except BaseException:  # interrupted: its answer must not be taken for that of the next call
            self.end_decoder()
            raise
        finally:
            self.busy_s += time.monotonic() - begun_s

    def end_decoder(self) -> int | None:
        """Kill the decoder; its wait status if it is known. The next call gets a fresh one."""
        if self._connection is None:
            return None
        self._connection.close()
        self._connection = None
        try:
            return self._command({})["status"]
        except (OSError, EOFError):
            return None

    def close(self) -> None:
        """End the child. Without effect in a process forked from the one that started it."""
        if self._pid == os.getpid():
            self._stop_supervisor()

    def _ensure_decoder(self) -> socket.socket:
        if self._num_calls >= self._limits.max_calls or not self._is_idle():
            self.end_decoder()
        if self._connection is None:
            try:
                self._connection = self._start_decoder()
            except (OSError, EOFError):  # the supervisor was killed: once more with a new one
                self._connection = self._start_decoder()
            self._num_calls = 0
        return self._connection

    def _is_idle(self) -> bool:
        """Whether the decoder waits for a request; one that died in between has closed its end."""
        if self._connection is None:
            return True
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return not poll.poll(0)

    def _start_decoder(self) -> socket.socket:
        if self._control is None:
            self._start_supervisor()
        limits = {
            "memory_bytes": self._limits.memory_bytes,
            "open_files": self._limits.open_files,
            "file_bytes": self._limits.file_bytes,
        }
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._decoder_pid = self._command(limits, theirs)["pid"]
            except BaseException:
                ours.close()
                raise
        return ours

    def _start_supervisor(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        atexit.register(self.close)
        try:
            with theirs:
                self._supervisor = subprocess.Popen(
                    [sys.executable, "-P", "-m", "avs.media.sandbox_child", str(os.getpid())],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    cwd="/",
                    start_new_session=True,
                )
            self._measures = self._reply(_START_S)
        except (OSError, EOFError) as error:
            self._stop_supervisor()
            raise DecoderError(
                f"the decoder process cannot be started ({type(error).__name__} {error}); "
                "what it printed on standard error says why"
            ) from error
        except BaseException:
            self._stop_supervisor()
            raise

    def _stop_supervisor(self) -> None:
        atexit.unregister(self.close)
        if self._connection is not None:
            self._connection.close()
        if self._control is not None:
            # not only closed: a forked copy of this process may hold the socket as well
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
            self._control.close()
        if self._supervisor is not None:
            try:
                self._supervisor.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()
                self._supervisor.wait()
        self._connection = self._control = self._supervisor = None

    def _command(
        self, message: dict[str, int], connection: socket.socket | None = None
    ) -> dict[str, int]:
        """Ask the supervisor for a decoder at the other end of ``connection``, or to end it."""
        assert self._control is not None
        fds = [] if connection is None else [connection.fileno()]
        try:
            self._control.settimeout(_REPLY_S)
            socket.send_fds(self._control, [json.dumps(message).encode()], fds)
            return self._reply(_REPLY_S)
        except BaseException:  # what it answers later must not be taken for another answer
            self._stop_supervisor()
            raise

    def _reply(self, wait_s: float) -> dict[str, Any]:
        assert self._control is not None
        self._control.settimeout(wait_s)
        data = self._control.recv(4096)
        if not data:
            raise EOFError
        reply: dict[str, Any] = json.loads(data)
        return reply


def _environment() -> dict[str, str]:
    """No credentials, the same modules, one thread (so that the supervisor may fork)."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    folders = [folder for folder in sys.path if Path(folder).is_absolute()]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": os.pathsep.join(folders)}
