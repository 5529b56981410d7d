"""What a decoder process gives up before it sees a file: network, privileges, system calls, memory.

Linux only and by ctypes, so that no package is needed. A kernel or container that refuses one of
the measures leaves the others in force, and each function says whether it took hold. Not covered:
files that the user may read stay readable, because the decoders open files by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import resource
import signal
import struct
from pathlib import Path

__all__ = [
    "allow_cpu_s",
    "die_with_parent",
    "drop_privileges",
    "filter_system_calls",
    "leave_network",
    "limit_resources",
]

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
_CAP_DAC_READ_SEARCH = 2
_EPERM = 1

# Per machine: audit number, then socket, execve, execveat, ptrace, process_vm_readv,
# process_vm_writev, setns, io_uring_setup (which can open sockets too).
_SYSTEM_CALLS = {
    "x86_64": (0xC000003E, (41, 59, 322, 101, 310, 311, 308, 425)),
    "aarch64": (0xC00000B7, (198, 221, 281, 117, 270, 271, 268, 425)),
}
_X32_BIT = 0x40000000  # the same calls under other numbers, on x86-64
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | _EPERM


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int, pointer: int | None = None) -> bool:
    words = [ctypes.c_ulong(value), ctypes.c_void_p(pointer), ctypes.c_ulong(0), ctypes.c_ulong(0)]
    return bool(_libc().prctl(option, *words) == 0)


def leave_network() -> bool:
    """Move this process into a network namespace without interfaces; whether that was allowed.

    A privileged process takes only that; for others it needs a user namespace of its own, which
    also keeps it from the memory and the environment of its parent. To be called with one thread.
    """
    libc = _libc()
    return any(
        libc.unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET)
    )


def drop_privileges() -> None:
    """No set-uid programs and no capabilities, but for reading what the user can read anyway.

    Without this, root could walk back into the network namespace that it left.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    kept = 1 << _CAP_DAC_READ_SEARCH if os.geteuid() == 0 else 0
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    for effective in (kept, 0):  # a process that does not have the one that is kept has none
        low, high = struct.pack("=III", effective, effective, 0), bytes(12)
        if _libc().capset(header, low + high) == 0:
            return


def filter_system_calls() -> bool:
    """Refuse sockets, new programs and reaching into other processes; whether that took hold.

    Needs :func:`drop_privileges` first. For machine types of which the call numbers are known.
    """
    known = _SYSTEM_CALLS.get(platform.machine())
    if known is None:
        return False
    audit_number, refused = known
    lines = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 0, len(refused) + 3, audit_number), (_LOAD, 0, 0, 0)]
    lines.append((_JUMP_AT_LEAST, len(refused) + 1, 0, _X32_BIT))
    for k, number in enumerate(refused):
        lines.append((_JUMP_EQUAL, len(refused) - k, 0, number))
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    code = b"".join(struct.pack("=HBBI", *line) for line in lines)
    program = _FilterProgram(len(lines), code)
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def limit_resources(*, memory_bytes: int, open_files: int, file_bytes: int) -> None:
    """Bound memory beyond what is taken now, open files and each written one; no core dump.

    The limit is on writable private memory, which is what decoders take. Address space has twice
    as much, since threads reserve far more of it than they use. Where memory runs out nevertheless,
    this process goes before the one that it works for.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    pages = [int(number) for number in Path("/proc/self/statm").read_text().split()]
    mapped_bytes, data_bytes = (pages[k] * resource.getpagesize() for k in (0, 5))
    for kind, limit in (
        (resource.RLIMIT_DATA, data_bytes + memory_bytes),
        (resource.RLIMIT_AS, mapped_bytes + 2 * memory_bytes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def allow_cpu_s(seconds: float) -> None:
    """Let this process use ``seconds`` of processor time from now on, then die by SIGXCPU."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
