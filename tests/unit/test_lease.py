"""One writer a folder: who may write, who must stop, and what a dead one leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from avs import storage
from avs.errors import DataError, LeaseError
from avs.lease import LEASE_NAME, Lease, check_owner

BEAT_S = 0.05
STALE_S = 0.4


def _lease(out: str, said: list[str] | None = None, *, beat_s: float = BEAT_S) -> Lease:
    say = (said if said is not None else []).append
    return Lease(out, job="test", say=say, heartbeat_s=beat_s, stale_s=STALE_S)


def _stop_beating(lease: Lease) -> None:
    """What a kill does to the holder: the file stays, the counter stands still."""
    assert lease._thread is not None
    lease._stop.set()
    lease._thread.join()


def test_a_lease_is_held_inside_the_block_and_gone_after_it(place: str) -> None:
    uri = storage.join(place, LEASE_NAME)
    with _lease(place) as lease:
        lease.check()
        check_owner(place, lease.owner)
        assert storage.read_json(uri)["job"] == "test"
    assert not storage.exists(uri)


def test_an_error_inside_the_block_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), _lease(str(tmp_path)):
        raise KeyError
    with _lease(str(tmp_path)) as lease:
        lease.check()


def test_a_second_run_refuses_while_the_first_lives(place: str) -> None:
    with _lease(place) as first:
        said: list[str] = []
        start_s = time.monotonic()
        with pytest.raises(LeaseError, match=re.escape(first.owner)), _lease(place, said):
            pytest.fail("two runs hold one folder")
        assert time.monotonic() - start_s < STALE_S + 2
        assert len(said) == 1
        first.check()


def test_the_lease_of_a_dead_run_is_taken_over_and_said(place: str) -> None:
    dead = _lease(place).__enter__()
    _stop_beating(dead)
    said: list[str] = []
    with _lease(place, said) as lease:
        lease.check()
        assert "waiting up to" in said[0]
        assert dead.owner in said[0]
        assert "is dead" in said[1]
        with pytest.raises(LeaseError, match=f"lost to {re.escape(lease.owner)}"):
            dead.check()
        dead.__exit__(None, None, None)
        lease.check()


def test_two_beats_are_watched_however_old_the_lease_claims_to_be(tmp_path: Path) -> None:
    with _lease(str(tmp_path)) as first:
        _stop_beating(first)
        old = {**storage.read_json(str(tmp_path / LEASE_NAME)), "time": time.time() - 3600}
        storage.write_json(str(tmp_path / LEASE_NAME), old)
        start_s = time.monotonic()
        with _lease(str(tmp_path)):
            assert time.monotonic() - start_s >= 2 * BEAT_S


def test_the_clock_of_another_machine_is_not_believed(tmp_path: Path) -> None:
    with _lease(str(tmp_path)) as first:
        _stop_beating(first)
        left = storage.read_json(str(tmp_path / LEASE_NAME))
        other = {**left, "owner": "elsewhere-1-abc", "time": time.time() - 3600}
        storage.write_json(str(tmp_path / LEASE_NAME), other)
        start_s = time.monotonic()
        with _lease(str(tmp_path)):
            assert time.monotonic() - start_s >= STALE_S


def test_a_lease_that_may_not_be_read_just_now_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, denied = storage.read_bytes, threading.Event()

    def deny(uri: str) -> bytes:
        if denied.is_set():
            raise DataError(f"{uri}: access is denied")
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", deny)
    with _lease(str(tmp_path)) as lease:
        denied.set()
        with pytest.raises(DataError, match="access is denied"):
            lease.check()
        assert lease._thread is not None
        lease._thread.join(timeout=3 * BEAT_S)
        assert lease._thread.is_alive()  # beats that are denied do not end it
        denied.clear()
        lease.check()


def test_clocks_that_differ_do_not_make_a_living_run_dead(tmp_path: Path) -> None:
    """The other machine's clock is an hour behind, and its counter moves."""
    with _lease(str(tmp_path), beat_s=60) as first:
        uri = str(tmp_path / LEASE_NAME)
        now = {**storage.read_json(uri), "time": time.time() - 3600}
        storage.write_json(uri, now)

        def say(_: str) -> None:  # the second run has just read the counter
            storage.write_json(uri, {**now, "count": 1})

        with (
            pytest.raises(LeaseError, match="written by another run"),
            Lease(str(tmp_path), job="test", say=say, heartbeat_s=BEAT_S, stale_s=STALE_S),
        ):
            pytest.fail("a living run was taken for dead")
        first.check()


@pytest.mark.parametrize(
    ("by", "told"), [("another", "was lost to another; nothing"), ("nobody", "every node reaches")]
)
def test_a_lost_lease_is_found_by_every_check(tmp_path: Path, by: str, told: str) -> None:
    out, uri = str(tmp_path), str(tmp_path / LEASE_NAME)
    with _lease(out, beat_s=60) as lease:
        if by == "nobody":
            storage.remove(uri)
        else:
            storage.write_json(uri, {"owner": by, "job": "j", "count": 0, "time": 0})
        for check in (lease.check, lambda: check_owner(out, lease.owner)):
            with pytest.raises(LeaseError, match=told):
                check()
    assert storage.exists(uri) == (by == "another")


def test_a_holder_that_lost_its_lease_does_not_write_it_again(tmp_path: Path) -> None:
    uri = str(tmp_path / LEASE_NAME)
    with _lease(str(tmp_path)):
        storage.write_json(uri, {"owner": "another", "job": "j", "count": 7, "time": 0})
        time.sleep(4 * BEAT_S)
        assert storage.read_json(uri)["owner"] == "another"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"owner": "x"}'])
def test_a_lease_file_that_is_none_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    storage.write_bytes(str(tmp_path / LEASE_NAME), content)
    with pytest.raises(LeaseError, match=rf"{LEASE_NAME} is not a lease"), _lease(str(tmp_path)):
        pytest.fail("it was taken for a lease")


@pytest.fixture
def killed_holder(tmp_path: Path) -> str:
    """A folder whose holder, another process, was killed by SIGKILL."""
    code = (
        "import sys, time\nfrom avs.lease import Lease\n"
        f"Lease(sys.argv[1], job='killed', heartbeat_s={BEAT_S}, stale_s={STALE_S}).__enter__()\n"
        "print('held', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        os.kill(process.pid, signal.SIGKILL)
    return str(tmp_path)


def test_the_folder_of_a_killed_process_is_taken_over(killed_holder: str) -> None:
    said: list[str] = []
    with _lease(killed_holder, said) as lease:
        lease.check()
    assert "(killed)" in said[0]
    assert "is dead" in said[-1]
