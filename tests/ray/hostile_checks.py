"""What must hold of a service whatever it is sent: what it says, whom it calls, what it takes."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil

__all__ = ["Listener", "check_answer", "memory_bytes", "peak_bytes", "tells_of_us"]

# Folders of this machine, names of modules and classes of Python.
_LEAK = re.compile(
    rb"/tmp|/work|/root|/home|/usr|Traceback|site-packages|\bavs\.|\w+Error\b|\bray\b"
)
_LEAK_IN_FILES = re.compile(rb"/tmp/|avs-upload|Traceback|site-packages")


class Listener:
    """A TCP port that counts who calls."""

    def __init__(self) -> None:
        self.num_calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let what is under way come in, then stop; that it listened until then is checked too."""
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"last")
            self._thread.join(10)
        assert not self._thread.is_alive()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            caller, _ = self._socket.accept()
            with caller:
                caller.settimeout(1)
                try:
                    is_last = caller.recv(4) == b"last"
                except OSError:
                    is_last = False
            if is_last:
                return
            self.num_calls += 1


def tells_of_us(answer: bytes) -> bool:
    """Whether bytes of any kind name our folders or show a traceback."""
    return _LEAK_IN_FILES.search(answer) is not None


def check_answer(name: str, response: httpx.Response) -> None:
    """No defect, and nothing that tells of this machine or of the program."""
    status, body = response.status_code, response.content
    assert status < 500 or status in (503, 504), (name, body[:500])
    is_file = response.headers["content-type"].partition("/")[0] == "video" or body[:2] == b"PK"
    assert not (_LEAK_IN_FILES if is_file else _LEAK).search(body), (name, body[:500])


def memory_bytes(part: str) -> int:
    """Memory of the processes of this test's Ray whose command holds ``part``."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if part in " ".join(process.cmdline()):
                total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


@contextmanager
def peak_bytes(part: str) -> Iterator[list[int]]:
    """The most that :func:`memory_bytes` was meanwhile, as the only item of a list."""
    peak, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            peak[0] = max(peak[0], memory_bytes(part))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        is_over.set()
        watcher.join()
