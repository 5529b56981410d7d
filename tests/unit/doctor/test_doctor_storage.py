"""Storage that the jobs must not trust is found out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flaky_s3
import pytest
import s3fs
from flaky_s3 import Failure, FlakyS3

from avs import storage
from avs.doctor import Status, storage_checks
from avs.doctor.checkpoint import look_at_checkpoint
from avs.doctor.storage_checks import judge_clock, look_at_clock, look_at_storage


@pytest.fixture
def proxy(s3_address: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    """The S3 of ``s3_folder`` by way of a server that a test can spoil."""
    assert s3_folder
    with flaky_s3.flaky_s3(s3_address) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.address)
        s3fs.S3FileSystem.clear_instance_cache()
        yield found
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that is not there yet, or a prefix."""
    return (
        str(tmp_path / "new") if request.param == "folder" else request.getfixturevalue("s3_folder")
    )


def test_good_storage_is_left_as_it_was(place: str) -> None:
    assert [f.status for f in look_at_storage(place)] == [Status.OK, Status.OK]
    assert not storage.exists(place)
    [clock] = look_at_clock(place)
    assert clock.status is Status.OK, clock.line()
    storage.write_bytes(storage.join(place, "mine"), b"x")
    look_at_storage(place)
    assert [info.path for info in storage.list_files(place)] == ["mine"]


def test_a_storage_that_ignores_if_none_match_is_found_out(
    s3_address: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = flaky_s3._handler

    def forgetful(proxy: FlakyS3) -> Any:
        class Forgetful(made(proxy)):  # type: ignore[misc]
            def _forward(self, *given: Any) -> None:
                del self.headers["If-None-Match"]
                super()._forward(*given)

        for method in ("GET", "PUT", "HEAD", "DELETE", "POST"):
            setattr(Forgetful, f"do_{method}", lambda self: self._serve())
        return Forgetful

    monkeypatch.setattr(flaky_s3, "_handler", forgetful)
    with flaky_s3.flaky_s3(s3_address) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.address)
        s3fs.S3FileSystem.clear_instance_cache()
        used, created = look_at_storage(s3_folder)
        assert not storage.exists(s3_folder)
    s3fs.S3FileSystem.clear_instance_cache()
    assert used.status is Status.OK
    assert created.status is Status.FAIL
    assert "If-None-Match" in created.cure


def test_a_storage_that_denies_writing(proxy: FlakyS3, s3_folder: str) -> None:
    proxy.fail("PUT", *[Failure.DENIED] * 4)
    [found] = look_at_storage(s3_folder)
    assert found.status is Status.FAIL
    assert "cannot be written" in found.found
    assert "credentials" in found.cure


def test_a_storage_that_denies_reading(proxy: FlakyS3, s3_folder: str) -> None:
    storage.write_bytes(storage.join(s3_folder, "there"), b"x")
    proxy.fail("GET", *[Failure.DENIED] * 9)
    found = look_at_storage(s3_folder)[-1]
    assert found.status is Status.FAIL
    [clock] = look_at_clock(s3_folder)
    assert clock.status is Status.SKIP


def test_a_bucket_that_is_not_there(s3_folder: str) -> None:
    assert s3_folder
    assert look_at_storage("s3://no-such-bucket/x")[-1].status is Status.FAIL


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = look_at_storage(str(tmp_path / "file" / "below"))[-1]
    assert found.status is Status.FAIL
    assert "cannot be written" in found.found


@pytest.mark.parametrize(
    ("broken", "answer", "words"),
    [
        ("read_bytes", lambda _: b"else", "came back changed"),
        ("list_files", lambda _: [], "lists nothing"),
        ("create_exclusive", lambda *_: False, "could not be made"),
    ],
)
def test_what_is_odd_about_a_storage(
    broken: str, answer: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, broken, answer)
    [told] = [f for f in look_at_storage(str(tmp_path)) if f.status is Status.FAIL]
    assert words in told.found
    assert told.cure


def test_nothing_is_looked_at_without_an_address() -> None:
    for look in (look_at_storage, look_at_clock, look_at_checkpoint):
        [found] = look(None)
        assert found.status is Status.SKIP
        assert "=" in found.cure


@pytest.mark.parametrize("place", ["s3", "folder"], indirect=True)
@pytest.mark.parametrize(
    ("off_s", "status"), [(1000.0, Status.FAIL), (-30.0, Status.WARN), (0.0, Status.OK)]
)
def test_a_clock_that_is_off(
    place: str, off_s: float, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=lambda: time.time() - off_s, perf_counter=time.perf_counter)
    monkeypatch.setattr(storage_checks, "time", clock)
    [found] = look_at_clock(place)
    assert found.status is status, found.line()
    told_s = float(found.found.split()[0])
    assert told_s == pytest.approx(off_s, abs=1.5)


def test_what_a_difference_of_clocks_means() -> None:
    assert judge_clock("clock", 301, other="x").status is Status.FAIL
    assert "tokens" in judge_clock("clock", -301, other="x").found
    assert judge_clock("clock", -3, other="x").status is Status.WARN
    assert judge_clock("clock", 1.9, other="x").status is Status.OK


def test_a_checkpoint_runs(tiny_checkpoint: Path) -> None:
    [found] = look_at_checkpoint(str(tiny_checkpoint))
    assert found.status is Status.OK, found.line()
    assert "5 frames of 96 px" in found.found


def test_a_checkpoint_that_is_cut_off(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for source in tiny_checkpoint.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    weights = tmp_path / "weights.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    [found] = look_at_checkpoint(str(tmp_path))
    assert found.status is Status.FAIL
    assert found.cure
    assert look_at_checkpoint(str(tmp_path / "none"))[0].status is Status.FAIL
