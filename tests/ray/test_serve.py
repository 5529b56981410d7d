"""The service behind one real Serve proxy."""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from serving_service import ONE_WORKER, running, serve_config
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from avs import Client
from avs.datasets.synthetic import Layout, SyntheticConfig, clip_plan, write_clip
from avs.errors import AvsError
from avs.inference.bucket.run import segment_bucket
from avs.inference.config import SegmentConfig
from avs.inference.outputs import OutputKind
from avs.inference.predictor import Predictor
from avs.inference.track import MaskTrack
from avs.media.encoding import write_mp4
from avs.media.masks import read_index_mask
from avs.media.video import Sampling, decode_video
from avs.serving import service
from avs.serving.config import ServeConfig

MAX_BODY_BYTES = 400_000
SPOOL_ABOVE_BYTES = 60_000
MAX_DURATION_S = 8.0


def _config(checkpoint: Path, **changes: Any) -> ServeConfig:
    usual: dict[str, Any] = {
        "max_body_bytes": MAX_BODY_BYTES,
        "max_duration_s": MAX_DURATION_S,
        "max_queued_requests": 2,
        "spool_above_bytes": SPOOL_ABOVE_BYTES,
    }
    return serve_config(checkpoint, **{**usual, **changes})


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tiny_checkpoint: Path, scratch: Path) -> Iterator[str]:
    request.getfixturevalue("ray_cluster")
    with running(_config(tiny_checkpoint, scratch=str(scratch))) as url:
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
    segment_bucket(job, say=lambda _: None)
    [row] = json.loads((tmp_path / "report.json").read_text())
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
def test_every_format_tells_the_same_masks(
    client: httpx.Client, video: Path, tmp_path: Path
) -> None:
    data = video.read_bytes()
    plain = _post(client, "a.mp4", data, params={"masks_per_s": "2"}).json()
    track = MaskTrack.from_json(plain)
    assert len(track) == 14

    events = [
        json.loads(line)
        for line in _post(
            client, "a.mp4", data, params={"format": "stream", "masks_per_s": "2"}
        ).iter_lines()
    ]
    assert [e["event"] for e in events] == ["start", "masks", "masks", "end"]
    assert [m for e in events[1:-1] for m in e["masks"]] == plain["masks"]

    npz = _post(client, "a.mp4", data, data={"format": "npz", "masks_per_s": "2"}).content
    stored = np.load(io.BytesIO(npz))
    assert (stored["masks"] == np.stack([track.mask(k) for k in range(14)])).all()

    png = _post(client, "a.mp4", data, params={"format": "png", "masks_per_s": "2"}).content
    with zipfile.ZipFile(io.BytesIO(png)) as archive:
        pictures = [n for n in archive.namelist() if n.endswith(".png")]
        assert len(pictures) == 14
        assert (read_index_mask(archive.read(pictures[3])) == track.mask(3)).all()

    matte = _post(client, "a.mp4", data, params={"format": "matte"})
    assert matte.headers["content-type"] == "video/quicktime"
    assert "a-matte.mov" in matte.headers["content-disposition"]
    assert len(matte.content) == int(matte.headers["content-length"])


@pytest.mark.timeout(600)
def test_the_client_of_the_package_gets_the_same(url: str, video: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    with Client(url) as client:
        track = client.segment(video, progress=lambda p: seen.append(p.num_masks))
        plain = client.segment(video)
        target = client.save(video, tmp_path / "masks.npz", format="npz")
        [model] = client.models()
    assert track == plain
    assert seen[-1] == 7
    assert len(np.load(target)["masks"]) == 7
    assert model["name"] == "default"
    assert "Random weights for tests" in model["card"]


@pytest.mark.timeout(600)
def test_a_large_upload_lies_in_scratch_while_it_is_worked_on(
    client: httpx.Client, video: Path, scratch: Path
) -> None:
    padded = video.read_bytes() + b"\0\0\xf0\0free" + bytes(0xF000 - 8)  # a box without meaning
    assert len(padded) > SPOOL_ABOVE_BYTES
    plain = _post(client, "a.mp4", video.read_bytes())
    assert _post(client, "a.mp4", padded).json() == plain.json()
    deadline_s = time.monotonic() + 10  # it is removed behind the answer
    while [p for p in scratch.rglob("*") if p.is_file() and "checkpoints" not in p.parts]:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.timeout(600)
def test_the_metrics_of_all_parts_are_told(client: httpx.Client, video: Path) -> None:
    _post(client, "a.mp4", video.read_bytes())
    deadline_s = time.monotonic() + 60
    wanted = ("avs_stage_seconds", "avs_answered", "avs_batch_windows", 'stage="forward"')
    while not all(word in (text := client.get("/metrics").text) for word in wanted):
        assert time.monotonic() < deadline_s, text[-2000:]
        time.sleep(0.5)  # Ray's agents gather every few seconds


@pytest.mark.timeout(600)
def test_a_camera_gets_masks_over_a_socket(client: httpx.Client, url: str, video: Path) -> None:
    picture = io.BytesIO()
    frames = decode_video(video, size_px=None, sampling=Sampling.TIME).frames
    Image.fromarray(frames[0]).save(picture, "JPEG")
    with connect(url.replace("http", "ws") + "/v1/live", proxy=None) as socket:
        socket.send(json.dumps({"token": None, "model": None, "threshold": 0.5, "objects": False}))
        ready = json.loads(socket.recv(timeout=60))
        assert (ready["event"], ready["num_frames"]) == ("ready", 5)
        for second in range(3):
            sound = np.zeros(16000, "<i2").tobytes()
            socket.send(b"\2" + struct.pack("<d", float(second)) + sound)
            socket.send(b"\1" + struct.pack("<d", second + 1.0) + picture.getvalue())
            answer = json.loads(socket.recv(timeout=60))
            assert answer["event"] == "mask", answer
            assert (answer["time_s"], answer["height"], answer["width"]) == (second + 1.0, 64, 96)
            assert answer["latency_ms"] > 0
    with (
        pytest.raises(InvalidStatus),
        connect(
            url.replace("http", "ws") + "/v1/live", proxy=None, origin=Origin("http://evil.example")
        ),
    ):
        pass
