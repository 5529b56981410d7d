"""The doctor as a whole: its lines, its time limit, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from avs.doctor import DoctorConfig, Finding, Status, run_doctor, runner
from avs.doctor.finding import Check, fail, ok, skip, warn
from avs.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def _doctor(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "doctor.py"), *arguments],
        env={**clean, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )


@pytest.mark.timeout(180)
def test_a_bare_machine_without_arguments(tmp_path: Path) -> None:
    done = _doctor(HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "warn", "skip"}
    assert " 0 FAIL, " in lines[-1]
    for name in ("Python", "packages", "decoders", "Ray auth", "open files", "storage"):
        assert any(line[6:].startswith(name) for line in lines), name


@pytest.mark.timeout(180)
def test_what_must_be_mended_is_exit_code_1_and_json(tmp_path: Path) -> None:
    given = [f"storage={tmp_path}/out", f"checkpoint={tmp_path}/none", "json=true"]
    done = _doctor(*given, RAY_AUTH_MODE="token", HOME=str(tmp_path))
    assert done.returncode == 1, done.stderr
    found = {(f["status"], f["name"]): f for f in json.loads(done.stdout)["findings"]}
    assert found["FAIL", "checkpoint"]["cure"]
    assert "no token" in found["FAIL", "Ray auth"]["found"]
    assert ("ok", "conditional create") in found
    assert list(tmp_path.iterdir()) == []


def _run(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> tuple[int, list[str]]:
    told: list[str] = []
    monkeypatch.setattr(runner, "all_checks", lambda _: list(checks))
    monkeypatch.setattr(runner, "_MARGIN_S", 0.0)
    return run_doctor(DoctorConfig(timeout_s=0.5), say=told.append), told


def test_every_finding_is_a_line_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [ok("a", "fine"), warn("b", "slow\nvery", "wait"), skip("c", "no")]
    code, told = _run(monkeypatch, Check("x", lambda: found))
    assert code == 0
    assert told == [
        "ok    a                   fine",
        "warn  b                   slow very -> wait",
        "skip  c                   no",
        "1 ok, 1 warn, 0 FAIL, 1 skip",
    ]


def test_a_check_that_crashes_or_hangs_is_a_line_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold = threading.Event()

    def crash() -> list[Finding]:
        raise OSError("no such\nthing")

    def hang() -> list[Finding]:
        hold.wait()
        return []

    checks = [Check("crash", crash), Check("hang", hang), Check("x", lambda: [ok("x", "fine")])]
    code, told = _run(monkeypatch, *checks)
    hold.set()
    assert code == 1
    assert told[0].startswith("FAIL  crash")
    assert "OSError: no such -> " in told[0]
    assert "no answer within 0.5 s -> " in told[1]
    assert told[2].startswith("ok    x")


def test_a_failure_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    code, told = _run(monkeypatch, Check("x", lambda: [fail("x", "bad", "mend it")]))
    assert code == 1
    assert told[0].startswith(f"{Status.FAIL.value}  x")


def test_a_time_limit_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="timeout_s=0"):
        DoctorConfig(timeout_s=0)
