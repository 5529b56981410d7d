"""A Ray cluster on machines of their own, with an S3 between them and nothing else in common."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import s3fs
from flaky_s3 import FlakyS3, flaky_s3
from machines import ROOT, Machine, Network, network
from moto.server import ThreadedMotoServer

__all__ = ["Cluster", "Job", "cluster", "wait_for"]

RAY = (sys.executable, "-m", "ray.scripts.scripts")
PORT, DASHBOARD_PORT = 6379, 8265
NUM_CPUS = 2  # of each node, whatever this machine has
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Job:
    """A submitted job."""

    cluster: Cluster
    id: str

    @property
    def status(self) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; LOST when nobody knows it."""
        try:
            return str(self.cluster.get(f"/api/jobs/{self.id}")["status"])
        except OSError:
            return "LOST"

    @property
    def printed(self) -> str:
        try:
            return str(self.cluster.get(f"/api/jobs/{self.id}/logs")["logs"])
        except OSError:
            return ""

    @property
    def has_ended(self) -> bool:
        return self.status in _ENDED

    def wait(self, *, deadline_s: float = 600) -> str:
        """Its last status."""
        wait_for(lambda: self.has_ended, deadline_s=deadline_s, told=lambda: self.printed[-3000:])
        return self.status

    def must_succeed(self, *, deadline_s: float = 600) -> str:
        """What it printed."""
        status = self.wait(deadline_s=deadline_s)
        assert status == "SUCCEEDED", f"{status}\n{self.printed[-6000:]}"
        return self.printed


class Cluster:
    """Head and workers; ``s3`` fails when told, ``files`` is the storage behind it."""

    def __init__(self, net: Network, s3: FlakyS3, storage: str) -> None:
        self.net, self.s3 = net, s3
        self.bucket = f"bucket-{uuid.uuid4().hex[:8]}"
        # Straight to the storage: what the tests look at does not fail.
        self.files = s3fs.S3FileSystem(
            key="test", secret="test", endpoint_url=storage, use_listings_cache=False
        )
        self.files.mkdir(self.bucket)
        self.head, *self.workers = [net.add(name) for name in ("head", "one", "two")]
        self.start()

    @property
    def machines(self) -> list[Machine]:
        return [self.head, *self.workers]

    def uri(self, *parts: str) -> str:
        return "/".join([f"s3://{self.bucket}", *parts])

    def read(self, uri: str) -> bytes:
        """An object, empty when it is not there."""
        try:
            return bytes(self.files.cat_file(uri))
        except FileNotFoundError:
            return b""

    def start(self) -> None:
        """Switch on what is off, start Ray where it does not run, and wait for all nodes."""
        self._start_head()
        starts = [self._start_worker(machine) for machine in self.workers]
        for process in starts:
            assert process is None or process.wait(timeout=300) == 0
        wait_for(self._is_whole, deadline_s=300)

    def _start_head(self) -> None:
        if not self.head.is_on:
            self.head.boot()
        if not _has_raylet(self.head):
            more = ("--head", f"--port={PORT}", "--include-dashboard=true")
            more += (f"--dashboard-host={self.head.address}", f"--dashboard-port={DASHBOARD_PORT}")
            for _ in range(3):  # Ray gives a node 30 s to register: little on a busy machine
                if self._ray_start(self.head, *more).wait() == 0:
                    break
        wait_for(self._answers, deadline_s=300)

    def _start_worker(self, machine: Machine) -> subprocess.Popen[bytes] | None:
        if not machine.is_on:
            machine.boot()
        if _has_raylet(machine):
            return None
        return self._ray_start(machine, f"--address={self.head.address}:{PORT}")

    def _ray_start(self, machine: Machine, *more: str) -> subprocess.Popen[bytes]:
        command = [*RAY, "start", f"--node-ip-address={machine.address}", *more]
        command += [f"--num-cpus={NUM_CPUS}", "--object-store-memory=150000000"]
        command += ["--include-log-monitor=false", "--disable-usage-stats"]
        return subprocess.Popen(
            machine.command(*command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Of nodes and clients."""
        dropped = ("RAY_", "AWS_", "PYTHON", "AVS_", "COV_", "PYTEST_")
        env = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(dropped) and not k.lower().endswith("_proxy")
        }
        return env | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}",
            "HOME": "/tmp/home",
            "TMPDIR": "/tmp",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "AWS_ENDPOINT_URL": self.s3.address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def submit(self, *entrypoint: str) -> Job:
        """Send a job as its docstring says, from a machine that is no node; returns at once."""
        job = Job(self, f"test-{uuid.uuid4().hex[:8]}")
        command = [*RAY, "job", "submit", "--address", self.url, "--submission-id", job.id]
        command += ["--runtime-env", "cluster/runtime_env.yaml", "--no-wait", "--", *entrypoint]
        env = self.environment | {"HOME": os.environ.get("HOME", "/")}
        done = subprocess.run(
            command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return job

    def running_jobs(self) -> list[Job]:
        """Submitted jobs that have not ended."""
        known = [job for job in self.get("/api/jobs/") if job["submission_id"]]
        return [Job(self, job["submission_id"]) for job in known if job["status"] not in _ENDED]

    def stop(self, job: Job) -> None:
        """``ray job stop``, by its HTTP call."""
        self.get(f"/api/jobs/{job.id}/stop", method="POST")

    @property
    def url(self) -> str:
        return f"http://{self.head.address}:{DASHBOARD_PORT}"

    def get(self, path: str, *, method: str = "GET") -> Any:
        """An answer of the dashboard; OSError where it has none."""
        request = urllib.request.Request(self.url + path, method=method)
        try:
            with _OPENER.open(request, timeout=10) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"{path}: {error.code}") from None

    def actors(self, name: str = "") -> list[dict[str, Any]]:
        """Living actors whose class or name contains ``name``, with ``machine`` and ``pid``."""
        answer = self.get("/api/v0/actors?limit=1000&detail=1")["data"]["result"]["result"]
        by_id = {n["node_id"]: n["node_ip"] for n in self._nodes()}
        return [
            {**actor, "machine": self._by_address(by_id[actor["node_id"]])}
            for actor in answer
            if actor["state"] == "ALIVE" and name in f"{actor['class_name']} {actor['name']}"
        ]

    def _by_address(self, address: str) -> Machine:
        return next(machine for machine in self.machines if machine.address == address)

    def _nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/api/v0/nodes?detail=1")["data"]["result"]["result"]
        return found

    def living(self) -> set[str]:
        """Addresses of the nodes that Ray believes in."""
        with contextlib.suppress(OSError):
            return {node["node_ip"] for node in self._nodes() if node["state"] == "ALIVE"}
        return set()

    def _is_whole(self) -> bool:
        return self.living() == {machine.address for machine in self.machines}

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return isinstance(self.get("/api/jobs/"), list)
        return False


def _has_raylet(machine: Machine) -> bool:
    return bool(machine.run("pgrep", "-x", "raylet", check=False).strip())


def wait_for(
    happened: Callable[[], bool],
    *,
    deadline_s: float = 600,
    told: Callable[[], str] = lambda: "",
) -> float:
    """Poll until ``happened``; the seconds it took. Fails at the deadline with what is ``told``."""
    begun_s = time.monotonic()
    while not happened():
        assert time.monotonic() - begun_s < deadline_s, f"not within {deadline_s} s\n{told()}"
        time.sleep(0.05)
    return time.monotonic() - begun_s


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Three machines and an S3 that all of them reach."""
    with network() as net:
        server = ThreadedMotoServer(ip_address=net.address, port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        try:
            with flaky_s3(f"http://{host}:{port}", host=net.address) as s3:
                yield Cluster(net, s3, f"http://{host}:{port}")
        finally:
            server.stop()
