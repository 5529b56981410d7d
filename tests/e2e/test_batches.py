"""Whole batches: the job that serves, Ray Jobs on the Ray that it starts, and a made-up S3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import s3fs
from heads import free_ports

from avs.client import Client, ServiceError
from avs.datasets.synthetic import Layout, SyntheticConfig, clip_plan, write_clip

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
TOKENS = {"mine": "batch+segment", "other": "batch"}
NUM_VIDEOS = 3
BATCH_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Running:
    """A service of its own process; ``bucket`` holds videos below in/."""

    url: str
    bucket: str
    process: subprocess.Popen[str]
    files: s3fs.S3FileSystem

    def client(self, token: str = "mine") -> Client:
        return Client(self.url, token=token)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    config = SyntheticConfig(
        layout=Layout.MS3, num_train=NUM_VIDEOS, num_val=0, num_test=0, size_px=64
    )
    root = tmp_path_factory.mktemp("videos")
    for spec in clip_plan(config):
        write_clip(root, spec, config)
    return sorted(root.rglob("*.mp4"))


@pytest.fixture(scope="module")
def service(s3_address: str, tiny_checkpoint: Path, videos: list[Path]) -> Iterator[Running]:
    aws = {
        "AWS_ENDPOINT_URL": s3_address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    files = s3fs.S3FileSystem(endpoint_url=s3_address, key="test", secret="test")
    bucket = f"batches-{uuid.uuid4().hex[:8]}"
    files.mkdir(bucket)
    for number, path in enumerate(videos):
        files.put_file(str(path), f"{bucket}/in/some/{number} it's $HOME.mp4")
    files.pipe_file(f"{bucket}/in/some/broken.mp4", b"no video")
    with _started(tiny_checkpoint, bucket, aws) as (process, url):
        yield Running(url, bucket, process, files)


@contextmanager
def _started(
    checkpoint: Path, bucket: str, aws: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AVS_", "AWS_"))}
    [port] = free_ports(1)
    tokens = ",".join(f"{name}:{scopes}" for name, scopes in TOKENS.items())
    command = [
        *(sys.executable, str(ROOT / "jobs" / "serve.py"), f"checkpoint={checkpoint}"),
        *(f"port={port}", "scale.num_workers=1", "scale.cpus_per_worker=0.5", "decoders=1"),
        *(f"batches.input_prefixes=[s3://{bucket}/in]", "batches.scale.cpus_per_worker=0.3"),
        *(f"batches.output_prefixes=[s3://{bucket}/out]", "access.per_minute=2000"),
    ]
    environ = {**clean, **aws, "AVS_API_TOKENS": tokens}
    with _ready(command, environ) as process:
        rest = threading.Thread(target=process.communicate, daemon=True)
        rest.start()
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            rest.join(120)


def _ready(command: list[str], environ: dict[str, str]) -> subprocess.Popen[str]:
    """The process, once it says that it is ready."""
    for _ in range(3):
        process = subprocess.Popen(
            command,
            env=environ,
            cwd="/",  # the program of batches is found from anywhere
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "serve: ready" in line:
                return process
        process.communicate()
        # Ray gives a node 30 s to register and then ends: too little on a machine that is busy.
        if "timed out during startup" not in printed:
            break
    raise AssertionError(printed)


def _places(service: Running, name: str) -> tuple[str, str]:
    return f"s3://{service.bucket}/in/some", f"s3://{service.bucket}/out/{name}"


def _until(is_true: Callable[[], object], timeout_s: float = BATCH_TIMEOUT_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_a_whole_batch(service: Running, videos: list[Path]) -> None:
    source, target = _places(service, "it's $(touch x) whole")
    seen: list[dict[str, Any]] = []
    with service.client() as client:
        begun = client.start_batch(source, target, key="whole", outputs=["rle_json"])
        assert begun["status"] in ("pending", "running")
        again = client.start_batch(source + "/", target, key="whole", outputs=["rle_json"])
        assert again["id"] == begun["id"]
        done = client.wait_batch(
            begun["id"], every_s=0.5, timeout_s=BATCH_TIMEOUT_S, progress=seen.append
        )
        assert done["status"] == "succeeded", done
        assert done["counts"] == {"videos": NUM_VIDEOS + 1, "ok": NUM_VIDEOS, "rejected": 1}
        assert {one["committed"] is None for one in seen[:-1]} <= {False}
        served = client.segment(videos[0])
    names = service.files.find(target.removeprefix("s3://"))
    [found] = [name for name in names if "/0 " in name and name.endswith("/masks.json")]
    masks = httpx.Response(200, content=service.files.cat_file(found)).json()["masks"]
    assert masks == served.to_json()["masks"]
    with service.client("other") as other, pytest.raises(ServiceError) as caught:
        other.batch(begun["id"])
    assert caught.value.status == 404


@pytest.mark.full
def test_a_batch_outlives_every_replica_can_be_stopped_and_goes_on(service: Running) -> None:
    source, target = _places(service, "stopped")
    with service.client() as client:
        id_ = client.start_batch(source, target, key="stopped")["id"]
        _until(lambda: client.batch(id_)["status"] == "running")
        _kill_ingress(service.process)
        state = client.stop_batch(id_)
        assert client.wait_batch(id_, every_s=0.2, timeout_s=60)["status"] == "stopped"
        assert (state["id"], client.stop_batch(id_)["status"]) == (id_, "stopped")
        again = client.start_batch(source, target, key="stopped")
        assert again["id"] == id_.removesuffix("1") + "2"
        done = client.wait_batch(again["id"], every_s=0.5, timeout_s=BATCH_TIMEOUT_S)
        assert done["status"] == "succeeded", done
        assert done["counts"]["ok"] == NUM_VIDEOS


def _kill_ingress(process: subprocess.Popen[str]) -> None:
    """End the replica that talks HTTP; the client asks again until there is another one."""
    children = psutil.Process(process.pid).children(recursive=True)
    found = [child for child in children if "ServeReplica:avs:Ingress" in _title(child)]
    assert found
    for one in found:
        one.kill()
        one.wait(30)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "told"),
    [("nothing", "in/nothing does not exist"), ("some", "1 of 4 videos were rejected, more than")],
)
def test_a_failure_is_told_in_the_words_of_the_job(service: Running, name: str, told: str) -> None:
    source = f"s3://{service.bucket}/in/{name}"
    target = f"s3://{service.bucket}/out/failed-{name}"
    with service.client() as client:
        begun = client.start_batch(source, target, outputs=["rle_json"], max_failed_ratio=0)
        done = client.wait_batch(begun["id"], every_s=0.5, timeout_s=BATCH_TIMEOUT_S)
    assert done["status"] == "failed"
    assert told in done["message"], done
    assert (done["counts"] is None) == (name == "nothing")
