"""The doctor at a real cluster, from its machine and from outside, with a token and without."""

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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(240)

# Starts a head, says where, and ends it when its standard input does.
HEAD = """
import json, sys, ray
context = ray.init("local", num_cpus=2, object_store_memory=200_000_000, include_dashboard=True,
    dashboard_port=int(sys.argv[2]), log_to_driver=False, _temp_dir=sys.argv[1])
address = context.address_info
print(json.dumps({"gcs": address["gcs_address"], "url": "http://" + context.dashboard_url}))
sys.stdout.flush()
sys.stdin.read()
"""


@dataclass(frozen=True)
class _Cluster:
    gcs: str
    url: str
    environ: dict[str, str]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[_Cluster]:
    """One node with a dashboard, closed to all who lack its token."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # socket paths: 107 characters
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": folder,
        "PATH": f"{Path(sys.executable).parent}:{environ['PATH']}",
    }
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD, folder, str(_free_port())],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert head.stdout is not None
    assert head.stdin is not None
    try:
        found = json.loads(next(line for line in head.stdout if line.startswith("{")))
        yield _Cluster(found["gcs"], found["url"], environ)
    finally:
        head.stdin.close()
        try:
            head.wait(timeout=30)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        head.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def _doctor(environ: dict[str, str], address: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs/doctor.py"), f"address={address}", "json=true"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


@pytest.mark.parametrize("way", ["gcs", "url"])
def test_a_cluster_that_is_fine(way: str, cluster: _Cluster) -> None:
    code, found = _doctor(cluster.environ, getattr(cluster, way))
    assert code == 0, found
    told = {f["name"]: f["found"] for f in found if f["name"] == "Ray"}
    assert "1 nodes, 2 CPUs, 0 GPUs" in told["Ray"]
    of_node = [f for f in found if f["name"].startswith("node ")]
    assert len(of_node) == 3
    assert "object store 0.2 GB, spills to " in of_node[0]["found"]
    assert "packages are those of here" in of_node[1]["found"]
    assert " s to " in of_node[2]["found"]
    auth = next(f for f in found if f["name"] == "Ray auth")
    assert auth["found"] == "token, from RAY_AUTH_TOKEN"


@pytest.mark.parametrize("way", [pytest.param("gcs", marks=pytest.mark.full), "url"])
def test_a_cluster_whose_token_is_another(way: str, cluster: _Cluster) -> None:
    environ = cluster.environ | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    code, found = _doctor(environ, getattr(cluster, way))
    assert code == 1
    [ray] = [f for f in found if f["name"] == "Ray"]
    assert ray["status"] == "FAIL"
    assert "RAY_AUTH_TOKEN" in ray["cure"], ray
