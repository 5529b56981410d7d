"""What the service asks of Ray's job server, at a made-up one; and how batches get its code."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from made_up_service import serving_config

from avs.errors import ConfigError
from avs.serving import batches_ray
from avs.serving.batches_jobs import JobServerAwayError
from avs.serving.batches_ray import JobServer, batch_plan, check_job_server, with_program

ID = "batch-" + "0" * 32 + "-1"
BATCHES = serving_config(
    batches={"input_prefixes": ["s3://b/in"], "output_prefixes": ["s3://b/out"]}
).batches
TOLD = {"owner": "me", "request": "{}", "checkpoint": "c"}


class MadeUp:
    """A job server: what it was sent, and what it answers beside its version."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.status = 200
        self.hold = threading.Event()
        self.hold.set()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": ray.__version__, "ray_commit": "c"}
        self.sent.append((method, path, body))
        self.hold.wait()
        if self.status != 200:
            return self.status, "Traceback secret"
        if method == "POST" and path == "/api/jobs/":
            if body["submission_id"] in self.jobs:
                return 500, "already exists"
            self.jobs[body["submission_id"]] = _details(body)
            return 200, {"job_id": None, "submission_id": body["submission_id"]}
        if path == "/api/jobs/":
            return 200, list(self.jobs.values())
        job = self.jobs.get(path.split("/")[3])
        return (404, "none") if job is None else (200, {"stopped": True} if "stop" in path else job)


def _details(body: Any) -> dict[str, Any]:
    return {
        "type": "SUBMISSION",
        "submission_id": body["submission_id"],
        "status": "PENDING",
        "entrypoint": body["entrypoint"],
        "metadata": body.get("metadata"),
        "start_time": 1_000_000,
    }


@pytest.fixture
def made_up() -> MadeUp:
    return MadeUp()


@pytest.fixture
def address(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(text) if text else None
            status, plain = made_up.answer(self.command, self.path, body)
            data = json.dumps(plain).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    made_up.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _submit(server: JobServer) -> bool:
    return server.submit(
        ID, "python a.py", runtime_env={"env_vars": {"A": ""}}, num_cpus=0.1, **TOLD
    )


def test_a_job_is_told_as_it_was_sent(address: str, made_up: MadeUp) -> None:
    server = JobServer(address, timeout_s=10)
    assert server.find(ID) is None
    assert _submit(server)
    job = server.find(ID)
    assert job is not None
    assert {name: getattr(job, name) for name in TOLD} == TOLD
    assert (job.status, job.begun_s, job.is_over) == ("PENDING", 1000.0, False)
    body = next(body for method, _, body in made_up.sent if method == "POST")
    assert body["entrypoint"] == "python a.py"
    assert body["entrypoint_num_cpus"] == 0.1
    assert body["runtime_env"]["env_vars"] == {"A": ""}
    server.stop(ID)
    assert made_up.sent[-1][:2] == ("POST", f"/api/jobs/{ID}/stop")


def test_an_id_that_is_taken_is_no_failure(address: str) -> None:
    assert [_submit(JobServer(address, timeout_s=10)) for _ in range(2)] == [True, False]


def test_jobs_of_others_are_none_of_ours(address: str, made_up: MadeUp) -> None:
    server = JobServer(address, timeout_s=10)
    _submit(server)
    body = {"submission_id": "other", "entrypoint": "a", "metadata": None}
    made_up.jobs["other"] = _details(body)
    made_up.jobs["driver"] = _details(body) | {"type": "DRIVER", "submission_id": None}
    assert [job.id for job in server.all()] == [ID]
    assert server.find("other") is None


def test_a_server_that_is_silent_refuses_or_is_gone_is_away(
    address: str, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = JobServer(address, timeout_s=0.3)
    _submit(server)
    made_up.hold.clear()
    with pytest.raises(JobServerAwayError):
        server.find(ID)
    made_up.hold.set()
    made_up.status = 500
    with pytest.raises(JobServerAwayError, match="answered 500"):
        server.all()
    made_up.status = 200
    assert server.find(ID) is not None
    with pytest.raises(ConfigError, match="batches need Ray's job server"):
        check_job_server(replace(BATCHES, job_address="http://127.0.0.1:9", timeout_s=0.3))
    check_job_server(replace(BATCHES, input_prefixes=[], output_prefixes=[]))


def test_no_proxy_sees_the_jobs(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    assert JobServer(address, timeout_s=10).all() == []


def test_the_program_is_in_the_working_folder_or_beside_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"working_dir": "gcs://a.zip", "env_vars": {"AVS_API_TOKENS": "secret", "A": "b"}}
    monkeypatch.setattr(batches_ray, "_runtime_env", dict)
    here = batch_plan(with_program(BATCHES, jobs=tmp_path))
    assert here is not None
    assert (here.python, here.program) == (sys.executable, str(tmp_path / "segment.py"))
    monkeypatch.setattr(batches_ray, "_runtime_env", lambda: dict(env))
    sent = batch_plan(with_program(BATCHES, jobs=tmp_path))
    assert sent is not None
    assert (sent.python, sent.program) == ("python", "jobs/segment.py")
    assert sent.runtime_env == {**env, "env_vars": {"AVS_API_TOKENS": "", "A": "b"}}
    given = replace(BATCHES, program="/app/jobs/segment.py")
    assert with_program(given, jobs=tmp_path).program == "/app/jobs/segment.py"
    with pytest.raises(ConfigError, match=r"batches\.program=null: give the path"):
        batch_plan(with_program(BATCHES, jobs=None))
    assert batch_plan(replace(BATCHES, input_prefixes=[], output_prefixes=[])) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_prefixes": ["s3://b"]}, r"batches\.output_prefixes=\[\]: a batch needs both"),
        ({"output_prefixes": ["s3://b"]}, r"batches\.input_prefixes=\[\]: a batch needs both"),
        ({"input_prefixes": ["/data"]}, r"batches\.input_prefixes has /data: write s3://"),
        ({"max_running": 0}, r"batches\.max_running=0 must be positive"),
        ({"max_per_token": -1}, r"batches\.max_per_token=-1 must be positive"),
        ({"timeout_s": 0}, r"batches\.timeout_s=0"),
        ({"driver_cpus": 0}, r"batches\.driver_cpus=0"),
    ],
)
def test_a_wrong_configuration_is_told_with_the_way_out(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        serving_config(batches=changes)


def test_what_batches_take_is_counted_only_where_there_are_some() -> None:
    assert serving_config().batches.cpus == 0
    assert replace(BATCHES, max_running=3, driver_cpus=0.5).cpus == pytest.approx(3 * 0.9)
