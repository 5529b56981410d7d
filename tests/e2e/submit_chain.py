"""Runs submit lines one after another against a head, and looks at what each has left."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from heads import Head, free_ports, wait_until
from submit_inputs import NUM_CLIPS
from submit_lines import SubmitLine

from avs import storage
from avs.prepare.manifest import read_manifest
from avs.training.checkpoint import load_checkpoint, resolve_checkpoint

__all__ = ["CHECKS", "Chain"]


@dataclass(frozen=True)
class Chain:
    """``uri`` takes the place of the bucket, ``folder`` that of the head's own disk."""

    head: Head
    uri: str
    folder: Path

    def run(self, line: SubmitLine) -> float:
        """Run the line and check what it has made; returns the seconds that took."""
        begin_s = time.monotonic()
        filled = line.filled(self.table())
        if filled.job == "serve":
            _serve(self, filled)
        else:
            printed = self.head.ray(*filled.words[1:], timeout_s=600)
            CHECKS[filled.job](filled, printed)
        return time.monotonic() - begin_s

    def table(self) -> dict[str, str]:
        """What a user would put for what stands in capitals."""
        return {
            "http://HEAD:8265": self.head.address,
            "http://127.0.0.1:8265": self.head.address,
            "s3://BUCKET": self.uri,
            "s3://bucket": self.uri,
            "PREFIX": "doctor",
            "/tmp/benchmark": str(self.folder / "benchmark"),
        }


def _check_prepare(line: SubmitLine, printed: str) -> None:
    assert f"{NUM_CLIPS} ok, 0 rejected" in printed
    counts = read_manifest(line.value("out")).counts
    assert (counts["input"], counts["ok"], counts["rejected"]) == (NUM_CLIPS, NUM_CLIPS, 0)


def _check_features(line: SubmitLine, printed: str) -> None:
    assert f"features: {NUM_CLIPS} clips of yamnet-" in printed
    assert storage.list_files(storage.join(line.value("prepared"), "features"))


def _check_train(line: SubmitLine, printed: str) -> None:
    found = load_checkpoint(resolve_checkpoint(line.value("out")))
    assert math.isfinite(found.metrics["loss"]), found.metrics


def _check_tune(line: SubmitLine, printed: str) -> None:
    out = line.value("out")
    [trial] = storage.read_json(storage.join(out, "trials.json"))["trials"]
    assert storage.exists(storage.join(out, "best.yaml")), trial
    load_checkpoint(storage.join(out, "checkpoint"))


def _check_study(line: SubmitLine, printed: str) -> None:
    table = storage.read_bytes(storage.join(line.value("out"), "study.md")).decode()
    assert "tpavi" in table


def _check_evaluate(line: SubmitLine, printed: str) -> None:
    assert storage.read_json(storage.join(line.value("out"), "metrics.json"))["num_clips"] == 2


def _check_segment(line: SubmitLine, printed: str) -> None:
    out = line.value("out")
    report = storage.read_json(storage.join(out, "report.json"))
    assert [row["status"] for row in report] == ["ok"] * 2
    for row in report:
        assert storage.exists(storage.join(out, row["video"], "overlay.mp4"))


def _check_benchmark(line: SubmitLine, printed: str) -> None:
    assert storage.exists(storage.join(line.value("out"), "benchmark.md"))


def _check_import(line: SubmitLine, printed: str) -> None:
    assert load_checkpoint(line.value("out")).metrics == {}


def _check_doctor(line: SubmitLine, printed: str) -> None:
    assert " 0 FAIL" in printed
    assert not storage.list_files(line.value("storage"))


def _serve(chain: Chain, line: SubmitLine) -> None:
    """Submit, ask once it is ready, stop it as a user would, and see that nothing is left."""
    [port] = free_ports(1)
    name = f"serve-{secrets.token_hex(4)}"
    line = line.with_options("--no-wait", "--submission-id", name).with_settings(f"port={port}")
    head = chain.head
    head.ray(*line.words[1:])
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
        try:
            wait_until(lambda: _is_ready(client, head, name), timeout_s=240)
            video = storage.list_files(storage.join(chain.uri, "videos"))[0].path
            content = storage.read_bytes(storage.join(chain.uri, "videos", video))
            answer = client.post("/v1/segment", files={"file": ("a.mp4", content)})
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["masks"]) == 5
        finally:
            head.ray("job", "stop", "--address", head.address, name)
        assert head.job_status(name) == "STOPPED", head.job_logs(name)
        assert not _answers(client), head.job_logs(name)


def _is_ready(client: httpx.Client, head: Head, name: str) -> bool:
    assert head.job_status(name) in ("PENDING", "RUNNING"), head.job_logs(name)
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _answers(client: httpx.Client) -> bool:
    try:
        client.get("/healthz")
    except httpx.TransportError:
        return False
    return True


CHECKS: dict[str, Callable[[SubmitLine, str], None]] = {
    "prepare": _check_prepare,
    "features": _check_features,
    "train": _check_train,
    "tune": _check_tune,
    "study": _check_study,
    "evaluate": _check_evaluate,
    "segment": _check_segment,
    "benchmark": _check_benchmark,
    "import_official": _check_import,
    "doctor": _check_doctor,
}
