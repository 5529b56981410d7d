"""A job sent with ``ray job submit`` to a running head node, as its docstring says.

One head node for each authentication mode: Ray turns tokens on by itself where it finds one, so
both ways must work. Every process of the head inherits a marker in its environment; clean-up ends
what carries it and nothing else, because other Ray instances may run on the machine.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

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


@dataclass(frozen=True)
class Head:
    """Where jobs are sent, and the environment (with the token) that may send them."""

    address: str
    env: dict[str, str]

    def submit(self, *entrypoint: str) -> str:
        """Submit, wait for the end and return what was printed."""
        command = [*RAY, "job", "submit", "--address", self.address]
        command += ["--runtime-env", "cluster/runtime_env.yaml", "--", *entrypoint]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.env,
            text=True,
            capture_output=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout


@pytest.fixture(scope="module", params=["disabled", "token"])
def head(request: pytest.FixtureRequest) -> Iterator[Head]:
    """A head node with two CPUs and a dashboard."""
    mark = secrets.token_hex(8)
    env = _environment(request.param, mark)
    folder = Path(tempfile.mkdtemp(prefix="avs"))  # short: Ray puts Unix sockets below it
    try:
        # Ray gives a node 30 s to register and then ends: too little on a machine that is busy.
        found = _start(env, folder) or _start(env, folder) or _start(env, folder)
        assert found is not None, (folder / "head.log").read_text()
        yield found
    finally:
        _end(mark)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(600)
def test_submitted_job_prepares_clips(head: Head, tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    printed = head.submit(
        *("python", "jobs/prepare.py", "data=synthetic", f"data.root={tmp_path / 'raw'}"),
        *(f"out={out}", "data.image_size_px=64", "data.synthetic.size_px=64"),
        *(
            f"data.synthetic.num_{split}={n}"
            for split, n in (("train", 4), ("val", 2), ("test", 2))
        ),
    )
    assert "8 ok, 0 rejected" in printed
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert (counts["input"], counts["ok"], counts["rejected"]) == (8, 8, 0)
    assert {name: split["ok"] for name, split in counts["by_split"].items()} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }


@pytest.mark.timeout(600)
def test_workers_import_the_uploaded_code(head: Head) -> None:
    if head.env["RAY_AUTH_MODE"] == "token":
        assert _status(head, "/api/jobs/", token="") == 401
    code = "import avs, ray; ray.init(); print(ray.get(ray.remote(lambda: avs.__file__).remote()))"
    assert "/runtime_resources/py_modules_files/" in head.submit("python", "-c", code)


def _start(env: dict[str, str], folder: Path) -> Head | None:
    """Start a head node; None where Ray gives up."""
    _end(env[MARKER])
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    command = [*RAY, "start", "--head", "--num-cpus", "2", "--temp-dir", str(folder)]
    command += ["--object-store-memory", "200000000", "--include-dashboard", "true"]
    command += [
        "--include-log-monitor",
        "false",
        "--min-worker-port",
        "0",
        "--max-worker-port",
        "0",
    ]
    command += [f"{option}={port}" for option, port in ports.items()]
    with (folder / "head.log").open("ab") as log:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    if done.returncode:
        return None
    head = Head(address=f"http://127.0.0.1:{ports['--dashboard-port']}", env=env)
    _wait(lambda: _status(head, "/api/jobs/") == 200, 60)
    return head


def _environment(mode: str, mark: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    env |= {"RAY_AUTH_MODE": mode, "RAY_USAGE_STATS_ENABLED": "0", MARKER: mark}
    return env | ({"RAY_AUTH_TOKEN": secrets.token_hex(32)} if mode == "token" else {})


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _status(head: Head, path: str, token: str | None = None) -> int | None:
    """HTTP status of a GET; None while nobody answers."""
    token = head.env.get("RAY_AUTH_TOKEN", "") if token is None else token
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(
            urllib.request.Request(head.address + path, headers=headers), timeout=5
        ) as r:
            return int(r.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def _wait(ready: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"not ready after {timeout_s} s"
        time.sleep(0.2)


def _end(mark: str) -> None:
    """Ask the head to stop, then kill whatever of it is left."""
    for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 15.0)):
        for pid in _marked(mark):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + patience_s
        while _marked(mark) and time.monotonic() < deadline:
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
