"""A head node of its own for tests that send jobs: started, asked and ended from here.

Every process of the head inherits a marker in its environment; clean-up ends what carries it and
nothing else, because other Ray instances may run on the machine.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Head", "free_ports", "running_head", "wait_until"]

ROOT = Path(__file__).resolve().parents[2]
RAY = (sys.executable, "-m", "ray.scripts.scripts")
MARKER = "AVS_TEST_HEAD"
PORTS = (
    "--port",
    "--dashboard-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--metrics-export-port",
    "--ray-client-server-port",
)
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Head:
    """Where jobs are sent, and the environment (with the token) that may send them."""

    address: str
    env: dict[str, str]

    def ray(self, *words: str, timeout_s: float = 240) -> str:
        """Run ``ray WORDS`` from the root of the repository; returns what was printed."""
        done = subprocess.run(
            [*RAY, *words],
            cwd=ROOT,
            env=self.env,
            text=True,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def submit(self, *entrypoint: str, timeout_s: float = 240) -> str:
        """Submit, wait for the end and return what was printed."""
        options = ("--address", self.address, "--runtime-env", "cluster/runtime_env.yaml")
        return self.ray("job", "submit", *options, "--", *entrypoint, timeout_s=timeout_s)

    def job_status(self, submission_id: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        with self._open(f"/api/jobs/{submission_id}") as answer:
            return str(json.load(answer)["status"])

    def job_logs(self, submission_id: str) -> str:
        """What a submitted job has printed so far."""
        with self._open(f"/api/jobs/{submission_id}/logs") as answer:
            return str(json.load(answer)["logs"])

    def status(self, path: str, token: str | None = None) -> int | None:
        """HTTP status of a GET, with the head's token unless told; None while nobody answers."""
        try:
            with self._open(path, token) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return None

    def _open(self, path: str, token: str | None = None) -> Any:
        token = self.env.get("RAY_AUTH_TOKEN", "") if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return _OPENER.open(urllib.request.Request(self.address + path, headers=headers), timeout=5)


@contextmanager
def running_head(mode: str, *, env: Mapping[str, str] | None = None) -> Iterator[Head]:
    """A head node with two CPUs and a dashboard.

    mode: of RAY_AUTH_MODE, ``disabled`` or ``token``. env: more variables, for its jobs too.
    """
    mark = secrets.token_hex(8)
    whole = _environment(mode, mark) | dict(env or {})
    folder = Path(tempfile.mkdtemp(prefix="avs"))  # short: Ray puts Unix sockets below it
    try:
        # Ray gives a node 30 s to register and then ends: too little on a machine that is busy.
        found = _start(whole, folder) or _start(whole, folder) or _start(whole, folder)
        assert found is not None, (folder / "head.log").read_text()
        yield found
    finally:
        _end(mark)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(ready: Callable[[], bool], *, timeout_s: float) -> None:
    """Look five times a second; fails after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline_s, f"not ready after {timeout_s} s"
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _start(env: dict[str, str], folder: Path) -> Head | None:
    """Start a head node; None where Ray gives up."""
    _end(env[MARKER])
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    command = [*RAY, "start", "--head", "--num-cpus", "2", "--temp-dir", str(folder)]
    command += ["--object-store-memory", "200000000", "--include-dashboard", "true"]
    command += ["--include-log-monitor", "false"]
    command += ["--min-worker-port", "0", "--max-worker-port", "0"]
    command += [f"{option}={port}" for option, port in ports.items()]
    with (folder / "head.log").open("ab") as log:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    if done.returncode:
        return None
    head = Head(address=f"http://127.0.0.1:{ports['--dashboard-port']}", env=env)
    wait_until(lambda: head.status("/api/jobs/") == 200, timeout_s=60)
    return head


def _environment(mode: str, mark: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    env |= {"RAY_AUTH_MODE": mode, "RAY_USAGE_STATS_ENABLED": "0", MARKER: mark}
    # Ray's workers otherwise give way to everything else: beside other tests they hardly run.
    env["RAY_worker_niceness"] = "0"
    return env | ({"RAY_AUTH_TOKEN": secrets.token_hex(32)} if mode == "token" else {})


def _end(mark: str) -> None:
    """Ask the head to stop, then kill whatever of it is left."""
    for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 15.0)):
        for pid in _marked(mark):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline_s = time.monotonic() + patience_s
        while _marked(mark) and time.monotonic() < deadline_s:
            time.sleep(0.1)


def _marked(mark: str) -> list[int]:
    """Processes whose environment carries the marker (a zombie has none)."""
    wanted = f"{MARKER}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # ended meanwhile, or of another user
    return found
