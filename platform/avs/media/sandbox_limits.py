"""What a decoder child may use, what is known of a running one, and how one can end."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

__all__ = ["OUT_OF_MEMORY", "DecoderGoneError", "SandboxLimits", "SandboxState", "cause_of_end"]

OUT_OF_MEMORY = 77  # exit code of a decoder, which cannot be sure of the memory for a message


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxLimits:
    """What one decoder may use.

    A call may take ``deadline_s``, and one second more for every ``slowest_bytes_per_s`` of the
    file, so that hours of video have time. ``memory_bytes`` come on top of the imported libraries
    and also bound a result. ``file_bytes`` bounds each file that it writes. After ``max_calls`` a
    new decoder takes over: the decoders leak.
    """

    memory_bytes: int = 4 << 30
    deadline_s: float = 60.0
    slowest_bytes_per_s: int = 250_000
    open_files: int = 64
    file_bytes: int = 0
    max_calls: int = 200

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0 and name != "file_bytes":
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")

    def file_deadline_s(self, size_bytes: int) -> float:
        """Seconds that a call on a file of this size may take."""
        return self.deadline_s + size_bytes / self.slowest_bytes_per_s


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxState:
    """A running child: its processes, and which of the measures the kernel allowed."""

    supervisor_pid: int
    decoder_pid: int
    has_left_network: bool
    is_filtered: bool

    @property
    def warning(self) -> str:
        """One sentence for the log when the decoders can reach the network, else empty."""
        if self.has_left_network or self.is_filtered:
            return ""
        return (
            "the decoders of untrusted media run with network access, because this kernel or "
            "container allows neither a network namespace nor a system call filter"
        )


class DecoderGoneError(Exception):
    """The decoder died or was stopped: how, in words; ``was_fresh`` if it was its first call."""

    def __init__(self, reason: str, *, was_fresh: bool, was_slow: bool = False) -> None:
        super().__init__(reason)
        self.was_fresh = was_fresh
        self.was_slow = was_slow


def cause_of_end(status: int | None, limits: SandboxLimits) -> str:
    """What a wait status (None: not known) says about the end of a decoder, in words."""
    if status is not None and os.WIFEXITED(status):
        if os.WEXITSTATUS(status) == OUT_OF_MEMORY:
            return f"needs more than {limits.memory_bytes / 2**30:.3g} GB of memory"
        return f"ended without an answer (exit code {os.WEXITSTATUS(status)})"
    if status is None:
        return "ended without an answer"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return "used up its processor time and was stopped"
    if number == signal.SIGKILL:
        return "was killed (signal SIGKILL), as happens when a machine runs out of memory"
    return f"crashed (signal {signal.Signals(number).name})"
