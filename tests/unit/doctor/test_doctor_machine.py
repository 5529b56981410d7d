"""What is wrong with a machine is found, and told with a cure."""

from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from avs.doctor import Status, gpu, machine, media, packages
from avs.doctor.finding import Finding
from avs.doctor.probing import ProbeError, start_probe
from avs.errors import DecoderError
from avs.media import sandbox

Usage = namedtuple("Usage", "total used free")


def _is(found: Finding, status: Status, *words: str) -> None:
    assert found.status is status, found.line()
    assert bool(found.cure) == (status in (Status.FAIL, Status.WARN))
    for word in words:
        assert word in found.line()
    assert "\n" not in found.line()


def test_this_machine_is_fine() -> None:
    found = [*packages.look_at_python(), *packages.look_at_packages(), *media.look_at_decoders()]
    assert [f.line() for f in found if f.status is not Status.OK] == []


def test_another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.12.1")
    [found] = packages.look_at_python()
    _is(found, Status.FAIL, "3.12.1", "<3.12")


def test_packages_that_are_missing_or_of_another_version() -> None:
    needed = [Requirement(text) for text in ("numpy>=99", "no-such-package==1", "av")]
    first, second = packages.wrong_versions(needed)
    assert "numpy>=99 is needed" in first
    assert "no-such-package is not installed" in second


def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_IMPORTED", ("av", "no_such_module"))
    [found] = packages.look_at_packages()
    _is(found, Status.FAIL, "import no_such_module fails: ModuleNotFoundError", "make setup")


def test_a_package_folder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", absent)
    monkeypatch.setattr(metadata, "requires", absent)
    for found in (*packages.look_at_python(), *packages.look_at_packages()):
        _is(found, Status.WARN, "not installed")


def _disk(monkeypatch: pytest.MonkeyPatch, *, free_gb: float, total_gb: float) -> None:
    usage = Usage(int(total_gb * 1e9), int((total_gb - free_gb) * 1e9), int(free_gb * 1e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


@pytest.mark.parametrize(
    ("free_gb", "total_gb", "status"),
    [(0.5, 100, Status.FAIL), (5, 20, Status.WARN), (30, 1000, Status.WARN), (60, 90, Status.OK)],
)
def test_room_for_temporary_files(
    free_gb: float, total_gb: float, status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _disk(monkeypatch, free_gb=free_gb, total_gb=total_gb)
    _is(machine.look_at_temporary(str(tmp_path)), status, f"{free_gb:.1f} GB free")


def test_a_folder_for_temporary_files_that_is_not_there(tmp_path: Path) -> None:
    _is(machine.look_at_temporary(str(tmp_path / "none")), Status.FAIL, "TMPDIR")


def test_shared_memory_below_the_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 10e9)
    _is(machine.look_at_shared_memory(tmp_path / "none"), Status.WARN, "does not exist")
    _disk(monkeypatch, free_gb=0.064, total_gb=0.064)
    _is(machine.look_at_shared_memory(tmp_path), Status.WARN, "takes 3.0 GB", "--shm-size")
    _disk(monkeypatch, free_gb=4, total_gb=4)
    _is(machine.look_at_shared_memory(tmp_path), Status.OK)


@pytest.mark.parametrize(
    ("soft", "status"), [(256, Status.FAIL), (1024, Status.WARN), (65536, Status.OK)]
)
def test_open_files(soft: int, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, 65536))
    _is(machine.look_at_files(), status, str(soft))


def test_a_home_that_cannot_keep_a_token(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    home = {"HOME": str(tmp_path / "file" / "home")}
    _is(machine.look_at_home(home), Status.FAIL, "RAY_AUTH_TOKEN_PATH")
    _is(machine.look_at_home({"HOME": str(tmp_path)}), Status.OK)
    for other in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "x"}):
        _is(machine.look_at_home(home | other), Status.OK, "not needed")


def test_a_decoder_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DecoderError("no process")

    monkeypatch.setattr(sandbox, "decode_video", fail)
    _is(media.look_at_decoders()[0], Status.FAIL, "no process")


def test_a_sound_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    right = sandbox.decode_video
    monkeypatch.setattr(sandbox, "decode_video", lambda *a, **o: right(*a, **o, with_audio=False))
    _is(media.look_at_decoders()[0], Status.FAIL, "silent")


def test_a_machine_without_decord_and_with_an_open_sandbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = sandbox.SandboxState(
        supervisor_pid=1, decoder_pid=2, has_left_network=False, is_filtered=False
    )
    monkeypatch.setattr(sandbox, "sandbox_state", lambda: state)
    monkeypatch.setattr(media.importlib.util, "find_spec", lambda _: None)
    _, reader, confinement = media.look_at_decoders()
    _is(reader, Status.WARN, "PyAV reads every video")
    _is(confinement, Status.WARN, "network access")


def _answer(*errors: float, cuda: str | None = "13.0") -> dict[str, Any]:
    gpus = [{"name": "H200", "memory_bytes": 141e9, "error": error} for error in errors]
    return {"torch": "2.11.0", "cuda": cuda, "nccl": "2.28.9", "gpus": gpus}


@pytest.mark.parametrize(
    ("answer", "driver", "status", "word"),
    [
        (_answer(), "", Status.SKIP, "jobs run on CPUs"),
        (_answer(cuda=None), "580.1", Status.FAIL, "torch 2.11.0 is for CPUs"),
        (_answer(), "580.1", Status.FAIL, "sees no GPU"),
        (_answer(0.0), "580.1", Status.OK, "H200, 141 GB, driver 580.1, CUDA 13.0"),
        (_answer(0.5), "580.1", Status.FAIL, "0.5 off"),
    ],
)
def test_gpus(answer: dict[str, Any], driver: str, status: Status, word: str) -> None:
    [found] = gpu.judge_gpus(answer, driver)
    _is(found, status, word)


def test_gpus_and_nccl_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    class Probe:
        def answer(self, **_: object) -> dict[str, Any]:
            return _answer(0.0, 0.0)

    sums = iter([ProbeError("unhandled system error"), 7.0, 3.0])

    def all_reduce(backend: str, size: int, **_: object) -> float:
        assert (backend, size) == ("nccl", 2)
        found = next(sums)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(gpu, "start_probe", lambda *_: Probe())
    monkeypatch.setattr(gpu, "all_reduce", all_reduce)
    _is(gpu.look_at_gpus(limit_s=1)[-1], Status.FAIL, "unhandled system error", "NCCL_DEBUG")
    _is(gpu.look_at_gpus(limit_s=1)[-1], Status.FAIL, "gave 7.0")
    _is(gpu.look_at_gpus(limit_s=1)[-1], Status.OK, "2 processes")


@pytest.mark.parametrize("size", [1, 2])
def test_processes_agree_on_a_sum(size: int) -> None:
    """With gloo what GPUs do with nccl."""
    assert gpu.all_reduce("gloo", size, limit_s=60) == size * (size + 1) / 2


def test_a_backend_that_fails_says_why() -> None:
    with pytest.raises(ProbeError, match="nonsense"):
        gpu.all_reduce("nonsense", 1, limit_s=60)


def test_a_probe_that_hangs_ends_at_its_limit(tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text("import time; time.sleep(60)")
    with pytest.raises(ProbeError, match=r"no answer within 0\.5 s"):
        start_probe(str(tmp_path / "hang.py")).answer(limit_s=0.5)
