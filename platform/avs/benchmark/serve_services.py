"""The contenders of stage ``serve`` as processes: started as a user would, asked, ended.

None gets thread counts from here: the checkpoint says how many its network has, and Ray's replicas
have what they have for a user.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from avs.benchmark.process import plain_environment
from avs.benchmark.serve_load import Answer, HttpSender, Send
from avs.benchmark.serve_sizes import Sizes
from avs.errors import AvsError

__all__ = ["Contenders", "idle_cores"]

_START_TIMEOUT_S, _STOP_TIMEOUT_S, _POLL_S = 300.0, 60.0, 0.2
# As jobs/serve.py has it where Ray ends with the job; read when Ray is imported.
_OWN_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "token"}
_TAIL_BYTES = 800


@dataclass(frozen=True, kw_only=True, slots=True)
class Contenders:
    """How each is started for one ``checkpoint``; each context gives what sends it requests.

    jobs: the folder of the jobs. logs: a folder for what they print. max_clients: at once.
    """

    jobs: Path
    checkpoint: str
    clips: Sequence[Path]
    logs: Path
    max_clients: int

    @contextmanager
    def avs(self) -> Iterator[tuple[Send, int]]:
        """``jobs/serve.py`` with room in its queue for all clients; also its process."""
        port = _free_port()
        job = [sys.executable, str(self.jobs / "serve.py"), f"checkpoint='{self.checkpoint}'"]
        job += [f"port={port}", f"limits.max_queued_requests={2 * self.max_clients}"]
        with self._served(job, "avs", port) as (send, pid):
            yield send, pid

    @contextmanager
    def plain(self) -> Iterator[Send]:
        """The plain server."""
        port = _free_port()
        command = [*_module("serve_plain"), self.checkpoint, str(port)]
        with self._served(command, "plain", port) as (send, _):
            yield send

    @contextmanager
    def empty(self, sizes: Sizes) -> Iterator[Send]:
        """The empty graph."""
        port = _free_port()
        command = [*_module("serve_graph"), sizes.to_json(), str(port)]
        with self._served(command, "empty", port) as (send, _):
            yield send

    @contextmanager
    def bare(self) -> Iterator[Send]:
        """The bare loop, which takes one request after the other."""
        command = [*_module("serve_bare"), self.checkpoint]
        with self._process(command, "bare", with_pipes=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            asked, given = child.stdin, child.stdout

            def line() -> bytes:
                text = given.readline()
                if not text:
                    raise self._failure("bare", child.wait(_STOP_TIMEOUT_S))
                return text.strip()

            def send(index: int) -> Answer:
                began_s = time.monotonic()
                asked.write(f"{self.clips[index % len(self.clips)]}\n".encode())
                asked.flush()
                body, ended_s = line(), time.monotonic()
                return Answer(
                    seconds=ended_s - began_s, ended_s=ended_s, status=200, num_refused=0, body=body
                )

            line()  # it is warm
            yield send

    @contextmanager
    def _served(self, command: list[str], name: str, port: int) -> Iterator[tuple[Send, int]]:
        url = f"http://127.0.0.1:{port}"
        with self._process(command, name) as child:
            deadline_s = time.monotonic() + _START_TIMEOUT_S
            while not _is_ready(f"{url}/readyz"):
                if child.poll() is not None or time.monotonic() > deadline_s:
                    raise self._failure(name, child.returncode)
                time.sleep(_POLL_S)
            yield HttpSender(f"{url}/v1/segment", self.clips), child.pid

    @contextmanager
    def _process(
        self, command: list[str], name: str, *, with_pipes: bool = False
    ) -> Iterator[subprocess.Popen[bytes]]:
        self.logs.mkdir(parents=True, exist_ok=True)
        environment = plain_environment()
        if name == "empty":
            environment |= {**_OWN_RAY, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        pipe = subprocess.PIPE if with_pipes else None
        with self._log(name).open("wb") as log:
            child = subprocess.Popen(
                command, stdin=pipe, stdout=pipe or log, stderr=log, env=environment
            )
            try:
                yield child
            finally:
                _end(child)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _failure(self, name: str, code: int | None) -> AvsError:
        said = self._log(name).read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
        what = f"did not start in {_START_TIMEOUT_S:g} s" if code is None else f"ended with {code}"
        return AvsError(f"{name} {what}: {said}")


def idle_cores(pid: int, *, seconds: float) -> float:
    """How many cores a process and its descendants use while nobody asks for anything."""
    before = _cpu_s(pid)
    time.sleep(seconds)
    after = _cpu_s(pid)
    return sum(after[one] - before[one] for one in after if one in before) / seconds


def _cpu_s(pid: int) -> dict[int, float]:
    root, found = psutil.Process(pid), {}
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = times.user + times.system
    return found


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"avs.benchmark.{name}"]


def _is_ready(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=5).close()
    except OSError:
        return False
    return True


def _end(child: subprocess.Popen[bytes]) -> None:
    """Politely, so that Ray's processes end with it; by force where that takes too long."""
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()
    child.terminate()
    try:
        child.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
