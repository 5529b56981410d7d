"""The job that serves, as a user starts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from serving_service import ROOT, free_port, serve_config

from avs.datasets.synthetic import Layout, SyntheticConfig, clip_plan, write_clip
from avs.errors import CheckpointError, ConfigError
from avs.scale import ScaleConfig
from avs.serving import service

TOKEN = {"Authorization": "Bearer s3cret"}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    config = SyntheticConfig(
        layout=Layout.MS3, num_train=1, num_val=0, num_test=0, size_px=64, silent_ratio=0
    )
    root = tmp_path_factory.mktemp("videos")
    [spec] = clip_plan(config)
    write_clip(root, spec, config)
    [path] = root.rglob("*.mp4")
    return path.read_bytes()


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_a_wrong_configuration_is_refused_before_deploying(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="AVS_API_TOKENS"):
        service.start(serve_config(tiny_checkpoint, host="0.0.0.0"), environ={})
    with pytest.raises(CheckpointError, match="does not exist"):
        service.start(serve_config(tmp_path / "nothing"), environ={})
    scale = ScaleConfig(num_workers=1, cpus_per_worker=64, gpus_per_worker=0)
    with pytest.raises(ConfigError, match=r"lower scale\.cpus_per_worker"):
        service.start(serve_config(tiny_checkpoint, scale=scale), environ={})


def _job(*overrides: str, **environ: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AVS_", "PYTHONUNB"))}
    return subprocess.Popen(
        [sys.executable, "jobs/serve.py", *overrides],
        cwd=ROOT,
        env={**clean, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(120)
def test_the_job_refuses_an_open_door(tiny_checkpoint: Path) -> None:
    job = _job(f"checkpoint={tiny_checkpoint}", "host=0.0.0.0")
    out, err = job.communicate(timeout=110)
    assert job.returncode == 2
    assert out == ""
    assert err.splitlines()[-1].startswith("error: host=0.0.0.0")
    assert "AVS_API_TOKENS" in err
    assert len(err.splitlines()) == 1


@pytest.mark.timeout(600)
def test_the_job_serves_with_tokens_until_it_is_told_to_stop(
    tiny_checkpoint: Path, video: bytes, tmp_path: Path
) -> None:
    port = free_port()
    run = shutil.copytree(tiny_checkpoint, tmp_path / "run")
    options = (f"checkpoint={run}", f"port={port}", "scale.num_workers=1")
    job = _job(*options, AVS_API_TOKENS="s3cret")
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == f"serve: with {run}\n", job.communicate(timeout=60)
        greeting = job.stdout.readline()
        assert f"ready at http://127.0.0.1:{port}" in greeting, job.communicate(timeout=60)
        assert f"http://127.0.0.1:{port}/docs" in job.stdout.readline()
        assert "curl -H" in job.stdout.readline()
        assert "format=overlay" in job.stdout.readline()
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
            files = {"file": ("a.mp4", video)}
            assert client.post("/v1/segment", files=files).status_code == 401
            assert client.post("/v1/segment", files=files, headers=TOKEN).status_code == 200
            assert client.get("/metrics", headers=TOKEN).status_code == 403
            assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
        (run / "weights.safetensors").write_bytes(b"no weights")
        job.send_signal(signal.SIGHUP)
        refused = job.stdout.readline()
        assert "is refused, the old one stays" in refused
        assert "no other checkpoint is taken over" in job.stdout.readline()
        with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
            assert client.post("/v1/segment", files=files, headers=TOKEN).status_code == 200
        job.send_signal(signal.SIGTERM)
        out, err = job.communicate(timeout=60)
    finally:
        job.kill()
        job.wait()
    assert job.returncode == 0, err
    assert "s3cret" not in greeting + out + err
    finishing, *rest = out.splitlines()
    assert "finishing what runs" in finishing
    assert (rest, err) == (["serve: stopped"], "")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/healthz", trust_env=False)
