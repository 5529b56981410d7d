"""This machine: shared memory for Ray's object store, temporary files, open files, home folder."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from avs.doctor.finding import Finding, fail, ok, warn

__all__ = [
    "look_at_files",
    "look_at_home",
    "look_at_machine",
    "look_at_shared_memory",
    "look_at_temporary",
    "memory_bytes",
]

_GB = 1e9
# What Ray takes of the memory for its object store when it is not told.
_STORE_SHARE = 0.3
_FEW_FILES, _ENOUGH_FILES = 1024, 8192
_LITTLE_BYTES, _ENOUGH_BYTES = 1 * _GB, 10 * _GB
# Ray refuses to spill onto a disk that is fuller.
_FULL_SHARE = 0.95


def look_at_machine() -> Sequence[Finding]:
    """All of this module."""
    return [
        look_at_shared_memory(Path("/dev/shm")),
        look_at_temporary(tempfile.gettempdir()),
        look_at_files(),
        look_at_home(os.environ),
    ]


def look_at_shared_memory(place: Path) -> Finding:
    """Whether Ray's object store fits into shared memory."""
    store_bytes = _STORE_SHARE * memory_bytes()
    if not place.exists():
        cure = "mount a tmpfs there; without, Ray's object store lies on the disk"
        return warn("shared memory", f"{place} does not exist", cure)
    free_bytes = shutil.disk_usage(place).free
    told = f"{place} has {_gb(free_bytes)} free, an object store takes {_gb(store_bytes)}"
    if free_bytes < store_bytes:
        cure = (
            "start the container with --shm-size of that much (Kubernetes: an emptyDir of medium "
            "Memory), or ray start --object-store-memory=BYTES; else the store lies on the disk"
        )
        return warn("shared memory", told, cure)
    return ok("shared memory", told)


def look_at_temporary(folder: str) -> Finding:
    """Room for temporary files, where Ray has its logs and spills objects too."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        cure = "make it writable, or set TMPDIR"
        return fail("temporary files", f"{folder}: {error.strerror}", cure)
    usage = shutil.disk_usage(folder)
    full = usage.used / usage.total
    told = f"{folder} has {_gb(usage.free)} free, {full:.0%} full"
    cure = "free some, or set TMPDIR and ray start --temp-dir to a larger disk"
    if usage.free < _LITTLE_BYTES:
        return fail("temporary files", told, cure)
    if usage.free < _ENOUGH_BYTES or full > _FULL_SHARE:
        return warn("temporary files", f"{told}; Ray stops spilling at {_FULL_SHARE:.0%}", cure)
    return ok("temporary files", told)


def look_at_files() -> Finding:
    """How many files a process may have open: Ray has a socket for every worker and client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"{soft} for a process (at most {hard})"
    cure = "ulimit -n 65536 before ray start or the job (Docker: --ulimit nofile=65536)"
    if soft < _FEW_FILES:
        return fail("open files", told, cure)
    if soft < _ENOUGH_FILES:
        return warn("open files", told, cure)
    return ok("open files", told)


def look_at_home(environ: Mapping[str, str]) -> Finding:
    """Whether Ray can keep its token, which it does in the home folder."""
    if environ.get("RAY_AUTH_MODE") == "disabled":
        return ok("home folder", "not needed: RAY_AUTH_MODE=disabled")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if environ.get(name):
            return ok("home folder", f"not needed: {name} is set")
    home = environ.get("HOME") or str(Path("~").expanduser())
    folder = Path(home, ".ray")
    place = folder if folder.is_dir() else Path(home)
    try:
        with tempfile.TemporaryFile(dir=place):
            return ok("home folder", f"{place} is writable")
    except OSError as error:
        cure = "set HOME to a folder of yours, or RAY_AUTH_TOKEN_PATH to a file with the token"
        told = f"{place}: {error.strerror}, and Ray would keep its token there"
        return fail("home folder", told, cure)


def memory_bytes() -> int:
    """Memory of this machine or container."""
    whole: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else ""
    return min(whole, int(text)) if text.isdigit() else whole


def _gb(count: float) -> str:
    return f"{count / _GB:.1f} GB"
