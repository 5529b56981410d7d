"""The service behind one real Serve proxy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_service import ONE_WORKER, free_port, running, serve_config

from avs.datasets.synthetic import Layout, SyntheticConfig, clip_plan, write_clip
from avs.errors import AvsError, CheckpointError, ConfigError
from avs.inference.bucket import segment_bucket
from avs.inference.config import SegmentConfig
from avs.inference.outputs import OutputKind
from avs.inference.predictor import Predictor
from avs.media.encoding import write_mp4
from avs.media.video import Sampling, decode_video
from avs.scale import ScaleConfig
from avs.serving import service
from avs.serving.config import ServeConfig

ROOT = Path(__file__).parents[2]
MAX_BODY_BYTES = 400_000
MAX_DURATION_S = 8.0


def _config(checkpoint: Path, **changes: Any) -> ServeConfig:
    usual: dict[str, Any] = {
        "max_body_bytes": MAX_BODY_BYTES,
        "max_duration_s": MAX_DURATION_S,
        "max_queued_requests": 2,
    }
    return serve_config(checkpoint, **{**usual, **changes})


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Iterator[str]:
    request.getfixturevalue("ray_cluster")
    with running(_config(tiny_checkpoint)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 7 s, so that its second window is a short one, and wider than high."""
    config = SyntheticConfig(
        layout=Layout.MS3,
        num_train=1,
        num_val=0,
        num_test=0,
        size_px=64,
        width_px=96,
        duration_s=7,
        silent_ratio=0,
    )
    root = tmp_path_factory.mktemp("videos")
    [spec] = clip_plan(config)
    write_clip(root, spec, config)
    [path] = root.rglob("*.mp4")
    return path


def _post(client: httpx.Client, name: str, video: bytes, **options: Any) -> httpx.Response:
    return client.post("/v1/segment", files={"file": (name, video)}, **options)


def _error(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    assert set(body) == {"error"}
    return response.status_code, body["error"]["code"], body["error"]["message"]


@pytest.mark.timeout(600)
def test_it_is_ready_when_started(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/docs").headers["content-type"].startswith("text/html")


@pytest.mark.timeout(600)
def test_masks_equal_the_predictor_and_the_bucket_job(
    client: httpx.Client, video: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    answers = [_post(client, "my clip.mp4", video.read_bytes()) for _ in range(2)]
    assert [r.status_code for r in answers] == [200, 200]
    assert answers[0].headers["content-type"] == "application/json"
    served = answers[0].json()
    assert served == answers[1].json()
    assert served.pop("video") == "my clip.mp4"
    assert len(served["masks"]) == 7
    assert (served["height"], served["width"]) == (64, 96)
    assert any(m["objects"] for m in served["masks"])

    here = Predictor.from_checkpoint(str(tiny_checkpoint)).segment_video(str(video))
    assert served == json.loads(json.dumps(here.to_json()))
    job = SegmentConfig(
        checkpoint=str(tiny_checkpoint),
        input=str(video),
        out=str(tmp_path),
        outputs=[OutputKind.RLE_JSON],
        threshold=0.5,
        scale=ONE_WORKER,
    )
    [row] = segment_bucket(job, say=lambda _: None)
    assert served == json.loads((tmp_path / row["folder"] / "masks.json").read_text())


@pytest.mark.timeout(600)
def test_the_overlay_plays_with_its_sound(
    client: httpx.Client, video: Path, tmp_path: Path
) -> None:
    response = _post(client, "ü clip.mp4", video.read_bytes(), data={"format": "overlay"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "video/mp4"
    assert "filename*=UTF-8''%C3%BC%20clip-overlay.mp4" in response.headers["content-disposition"]
    (tmp_path / "overlay.mp4").write_bytes(response.content)
    drawn = decode_video(tmp_path / "overlay.mp4", size_px=None, sampling=Sampling.TIME)
    plain = decode_video(video, size_px=None, sampling=Sampling.TIME)
    assert drawn.frames.shape == plain.frames.shape
    assert np.abs(drawn.frames.astype(int) - plain.frames).mean() > 5
    assert drawn.samples is not None


@pytest.mark.timeout(600)
def test_a_video_without_sound_counts_as_silent(client: httpx.Client, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3), dtype=np.uint8)
    write_mp4(tmp_path / "mute.mp4", frames, fps=8, samples=None)
    response = _post(client, "mute.mp4", (tmp_path / "mute.mp4").read_bytes())
    assert response.status_code == 200
    assert len(response.json()["masks"]) == 2
    assert any("silence" in w for w in response.json()["warnings"])


@pytest.mark.timeout(600)
def test_bad_files_are_refused_in_plain_words(client: httpx.Client, video: Path) -> None:
    whole = video.read_bytes()
    bad = {
        "note.mp4": (b"this is no video at all", 415, "unsupported_media", "text file"),
        "list.mp4": (b"#EXTM3U\nhttp://127.0.0.1/a.ts", 415, "unsupported_media", "playlist"),
        "page.mp4": (b"\x89PNG\r\n\x1a\n" + bytes(99), 415, "unsupported_media", "format"),
        "empty.mp4": (b"", 422, "unreadable", "empty"),
        "cut.mp4": (whole[: len(whole) // 2], 422, "unreadable", "cut off"),
        "shell.mp4": (whole[:32] + bytes(5000), 422, "unreadable", ""),
    }
    for name, (data, *expected, reason) in bad.items():
        response = _post(client, f"../{name}", data)
        status, code, message = _error(response)
        assert [status, code] == expected, (name, message)
        assert message.startswith(f"{name}: "), message
        assert reason in message
        assert "/tmp" not in response.text
        assert "upload" not in message
        assert "Traceback" not in response.text


@pytest.mark.timeout(600)
def test_a_long_video_is_refused_before_it_is_decoded(client: httpx.Client, tmp_path: Path) -> None:
    frames = np.zeros((20, 32, 32, 3), np.uint8)
    write_mp4(tmp_path / "long.mp4", frames, fps=2, samples=None)
    response = _post(client, "long.mp4", (tmp_path / "long.mp4").read_bytes())
    assert _error(response)[:2] == (422, "too_long")
    assert "10.0 s" in response.text
    assert "8 s" in response.text


@pytest.mark.timeout(600)
def test_requests_are_bounded(client: httpx.Client, video: Path) -> None:
    big = b"x" * (MAX_BODY_BYTES + 1)
    assert _error(_post(client, "big.mp4", big))[:2] == (413, "too_large")
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunked = client.post("/v1/segment", content=iter([head, big]), headers=headers)
    assert _error(chunked)[:2] == (413, "too_large")
    assert _error(client.post("/v1/segment"))[:2] == (422, "missing_field")
    response = _post(client, "a.mp4", b"x", params={"format": "gif"})
    assert _error(response)[:2] == (422, "unknown_format")
    response = _post(client, "a.mp4", video.read_bytes(), params={"objects": "true"})
    assert _error(response)[:2] == (422, "no_objects")  # this checkpoint is of TPAVI
    assert client.get("/healthz").status_code == 200


@pytest.mark.timeout(600)
def test_a_burst_gets_masks_or_a_429(client: httpx.Client, video: Path) -> None:
    data = video.read_bytes()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _post(client, "a.mp4", data), range(8)))
    done = [r for r in answers if r.status_code == 200]
    busy = [r for r in answers if r.status_code == 429]
    assert len(done) + len(busy) == len(answers)
    assert len(done) >= 3  # one is worked on, two wait
    assert len({r.content for r in done}) == 1
    assert all("retry-after" in r.headers for r in busy)


@pytest.mark.timeout(600)
def test_a_second_service_is_refused(url: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(AvsError, match="already runs"):
        service.start(_config(tiny_checkpoint), environ={})
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_a_wrong_configuration_is_refused_before_deploying(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="AVS_API_TOKENS"):
        service.start(_config(tiny_checkpoint, host="0.0.0.0"), environ={})
    with pytest.raises(CheckpointError, match="does not exist"):
        service.start(_config(tmp_path / "nothing"), environ={})
    scale = ScaleConfig(num_workers=1, cpus_per_worker=64, gpus_per_worker=0)
    with pytest.raises(ConfigError, match=r"lower scale\.cpus_per_worker"):
        service.start(_config(tiny_checkpoint, scale=scale), environ={})


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
    tiny_checkpoint: Path, video: Path
) -> None:
    port = free_port()
    options = (f"checkpoint={tiny_checkpoint}", f"port={port}", "scale.num_workers=1")
    job = _job(*options, AVS_API_TOKENS="s3cret")
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == f"serve: with {tiny_checkpoint}\n", job.communicate(
            timeout=60
        )
        greeting = job.stdout.readline()
        assert f"ready at http://127.0.0.1:{port}" in greeting, job.communicate(timeout=60)
        assert f"http://127.0.0.1:{port}/docs" in job.stdout.readline()
        assert "curl -H" in job.stdout.readline()
        assert "format=overlay" in job.stdout.readline()
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
            data = video.read_bytes()
            assert _error(_post(client, "a.mp4", data))[:2] == (401, "unauthorized")
            headers = {"Authorization": "Bearer s3cret"}
            assert _post(client, "a.mp4", data, headers=headers).status_code == 200
        job.send_signal(signal.SIGTERM)
        out, err = job.communicate(timeout=60)
    finally:
        job.kill()
        job.wait()
    assert job.returncode == 0, err
    assert "s3cret" not in greeting + out + err
    assert (out, err) == ("serve: stopped\n", "")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/healthz", trust_env=False)
