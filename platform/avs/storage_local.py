"""Files on this machine that appear under their name only when they are whole."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["create_whole", "move_whole", "temporary_name", "walk_files", "write_whole"]


def temporary_name(path: str | Path) -> Path:
    """A hidden name beside ``path`` that no listing takes for a finished file."""
    final = Path(path)
    return final.with_name(f".{final.name[:80]}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def walk_files(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Path relative to ``path`` and status of each file below it (of a file itself: ".").

    Links are followed, but for those that lead nowhere or back to a folder that they lie in.
    """
    if Path(path).is_file():
        yield ".", Path(path).stat()
    elif Path(path).is_dir():
        yield from _walk(path, "", ())


def _walk(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, os.stat_result]]:
    own = Path(folder).stat()
    if (own.st_dev, own.st_ino) in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                inside = (*above, (own.st_dev, own.st_ino))
                yield from _walk(entry.path, f"{prefix}{entry.name}/", inside)
            elif entry.is_file():
                yield prefix + entry.name, entry.stat()


def write_whole(path: str, data: bytes) -> None:
    """Write a file by way of a temporary one; it is on the disk when this returns."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def create_whole(path: str, data: bytes) -> bool:
    """Create a file with its content unless there is one; True when this call made it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # A hard link appears with its content in one step, which O_EXCL + write would not.
    temporary = temporary_name(path)
    temporary.write_bytes(data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def move_whole(local: str | Path, path: str) -> None:
    """Move a finished file to ``path``, from another disk by a copy."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        Path(local).replace(path)
    except OSError:  # another disk
        temporary = temporary_name(path)
        shutil.copyfile(local, temporary)
        temporary.replace(path)
        Path(local).unlink()
