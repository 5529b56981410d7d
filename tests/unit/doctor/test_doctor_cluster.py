"""What a cluster says is judged; addresses that do not answer hang nobody."""

from __future__ import annotations

import platform
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avs.doctor import Status, cluster
from avs.doctor.cluster import judge_cluster, look_at_authentication, look_at_cluster
from avs.doctor.probing import ProbeError

MINE = {"ray": "2.60.0", "torch": "2.11.0", "avs": "1.0"}


def _node(**changes: Any) -> dict[str, Any]:
    answer = {
        "python": platform.python_version(),
        "packages": dict(MINE),
        "spill_folder": "/tmp/ray",
        "spill_free_bytes": 100e9,
        "spill_total_bytes": 200e9,
        "shm_bytes": 8e9,
        "behind_s": 0.01,
        "unsure_s": 0.02,
    }
    node = {"host": "n1", "address": "10.0.0.1", "cpus": 4, "gpus": 1, "store_bytes": 4e9}
    return {**node, "answer": answer | changes}


def _judged(*nodes: dict[str, Any]) -> list[str]:
    """Lines that are not ok."""
    found = judge_cluster({"ray": "2.60.0", "nodes": list(nodes)}, MINE, address="auto")
    assert all(f.cure for f in found if f.status in (Status.WARN, Status.FAIL))
    return [f.line() for f in found if f.status is not Status.OK]


def test_alike_nodes_are_fine() -> None:
    assert _judged(_node(), _node()) == []
    found = judge_cluster({"ray": "2.60.0", "nodes": [_node()] * 2}, MINE, address="auto")
    assert found[0].found == "auto: Ray 2.60.0, 2 nodes, 8 CPUs, 2 GPUs"


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"packages": MINE | {"torch": "2.9.0"}}, "FAIL", "torch 2.9.0 (here 2.11.0)"),
        ({"packages": MINE | {"torch": None}}, "FAIL", "torch missing (here 2.11.0)"),
        ({"packages": MINE | {"avs": "0.9"}}, "FAIL", "avs 0.9 (here 1.0)"),
        ({"python": "3.11.1"}, "FAIL", "Python 3.11.1"),
        ({"shm_bytes": 64e6}, "warn", "/dev/shm has only 0.1 GB"),
        ({"spill_free_bytes": 5e9}, "warn", "5.0 GB free"),
        ({"spill_total_bytes": 9e12}, "warn", "stops spilling at 95%"),
        ({"behind_s": 400.0}, "FAIL", "+400.0 s to n1"),
        ({"behind_s": -5.0}, "warn", "-5.0 s to n1"),
        ({"unsure_s": 3.0}, "skip", "an answer took 3.0 s"),
    ],
)
def test_a_node_that_differs(changes: dict[str, Any], status: str, words: str) -> None:
    [line] = _judged(_node(), _node(**changes))
    assert line.startswith(status), line
    assert words in line


def test_a_node_without_avs_gets_it_with_the_job() -> None:
    assert _judged(_node(packages=MINE | {"avs": None})) == []


def test_nodes_that_do_not_answer_are_told_with_the_others() -> None:
    silent, broken = _node() | {"answer": None}, _node() | {"answer": {"error": "no worker"}}
    first, second = _judged(_node(), silent, broken)
    assert "10.0.0.1 did not answer" in first
    assert "no worker" in second
    assert first.startswith("FAIL")


@pytest.mark.parametrize(
    ("environ", "status", "words"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, Status.OK, "off"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}, Status.OK, "from RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token"}, Status.FAIL, "there is no token"),
        ({"RAY_AUTH_MODE": "basic"}, Status.FAIL, "not known"),
        ({}, Status.OK, "no token"),
    ],
)
def test_authentication(
    environ: dict[str, str], status: Status, words: str, tmp_path: Path
) -> None:
    found = look_at_authentication({"HOME": str(tmp_path), **environ})
    assert (found.status, words in found.found) == (status, True), found.line()


def test_a_token_in_a_file(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("x")
    environ = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    assert str(token) in look_at_authentication(environ).found
    environ["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "none")
    assert look_at_authentication(environ).status is Status.FAIL


@pytest.mark.parametrize(
    ("why", "cure"),
    [
        ("RuntimeError: Version mismatch: The cluster was started with: Ray: 2.9", "versions"),
        ("Authentication required: 401", "RAY_AUTH_TOKEN"),
        ("connection refused", "port"),
    ],
)
def test_the_cure_fits_the_reason(why: str, cure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Probe:
        def answer(self, **_: object) -> None:
            raise ProbeError(why)

    monkeypatch.setattr(cluster, "start_probe", lambda *_: Probe())
    found = look_at_cluster("auto", limit_s=1)[-1]
    assert (found.status, why in found.found, cure in found.cure) == (Status.FAIL, True, True)


@pytest.fixture
def silent_address() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        held: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    held.append(server.accept()[0])
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_an_address_that_hangs_ends_at_the_limit(scheme: str, silent_address: str) -> None:
    found = look_at_cluster(scheme + silent_address, limit_s=4)[-1]
    assert found.status is Status.FAIL
    assert "no answer within 4 s" in found.found


def test_without_an_address_no_cluster_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = look_at_cluster(None, limit_s=1)[-1]
    assert found.status is Status.SKIP
