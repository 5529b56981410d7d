"""What keeps the service answering: killed replicas, new checkpoints, clients that leave."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import torch
from serving_service import serve_config
from small_configs import model_config, open_fusions

from avs.config import dump
from avs.datasets.synthetic import Layout, SyntheticConfig, clip_plan, write_clip
from avs.models import build_system
from avs.serving import service
from avs.serving.rollout import Rollout
from avs.training.checkpoint import save_checkpoint
from avs.training.clip_spec import ClipSpec

pytestmark = pytest.mark.timeout(600)
CLIENTS = 3


def write_checkpoint(folder: Path, *, seed: int) -> None:
    """Random weights of a kind."""
    model = model_config(options={"fusion_width": 32})
    torch.manual_seed(seed)
    system = build_system(model)
    open_fusions(system)
    inference = {"windows_per_forward": 2, "num_threads": 1}
    save_checkpoint(
        str(folder),
        weights=system.state_dict(),
        config={"model": dump(model), "inference": inference},
        clip=ClipSpec(num_frames=5, image_size_px=96, class_names=("background", "sounding")),
        metrics={},
        card="Random weights for tests.\n",
        trainer_state={},
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return _clip(tmp_path_factory.mktemp("clip"), duration_s=7)


def _clip(root: Path, *, duration_s: int) -> bytes:
    config = SyntheticConfig(
        layout=Layout.MS3,
        num_train=1,
        num_val=0,
        num_test=0,
        size_px=64,
        duration_s=duration_s,
        silent_ratio=0,
    )
    [spec] = clip_plan(config)
    write_clip(root, spec, config)
    [path] = root.rglob("*.mp4")
    return path.read_bytes()


@dataclass
class Served:
    url: str
    rollout: Rollout
    checkpoint: Path
    said: list[str]

    def post(self, video: bytes, **params: str) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/segment",
            files={"file": ("a.mp4", video)},
            params=params,
            timeout=120,
            trust_env=False,
        )


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    request.getfixturevalue("ray_cluster")
    checkpoint = tmp_path_factory.mktemp("run") / "checkpoint"
    write_checkpoint(checkpoint, seed=0)
    said: list[str] = []
    url, rollout = service.start(
        serve_config(checkpoint, max_duration_s=200.0), environ={}, say=said.append
    )
    yield Served(url, rollout, checkpoint, said)
    service.stop()


@pytest.fixture
def load(served: Served, video: bytes) -> Iterator[Callable[[], list[httpx.Response]]]:
    """Clients that send one request after the other, until the answers are asked for."""
    stopping = threading.Event()

    def client(_: int) -> list[httpx.Response]:
        answers = []
        while not stopping.is_set():
            answers.append(served.post(video))
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        running_clients = [pool.submit(client, k) for k in range(CLIENTS)]

        def finish() -> list[httpx.Response]:
            stopping.set()
            return [answer for one in running_clients for answer in one.result()]

        try:
            yield finish
        finally:
            stopping.set()


def _replica(part: str) -> tuple[str, Any]:
    """Name and handle of the running replica of a deployment."""
    names = [n["name"] for n in ray.util.list_named_actors(all_namespaces=True)]
    [name] = [n for n in names if n.startswith(f"SERVE_REPLICA::avs#{part}#")]
    return name, ray.get_actor(name, namespace="serve")


def _wait(what: Callable[[], bool], *, timeout_s: float = 90) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def _is_busy(part: str) -> bool:
    return bool(ray.get(_replica(part)[1].get_num_ongoing_requests.remote()) > 0)


def _kill(part: str) -> None:
    """Kill the replica of a deployment, and wait for the one that takes its place."""
    name, actor = _replica(part)
    ray.kill(actor)

    def is_replaced() -> bool:
        try:
            return _replica(part)[0] != name
        except ValueError:
            return False

    _wait(is_replaced)


@pytest.mark.parametrize("part", ["Segmenter-default", "Decoder"])
def test_a_killed_replica_loses_no_request(
    served: Served, video: bytes, load: Any, part: str
) -> None:
    expected = served.post(video).content
    _wait(lambda: _is_busy(part))
    _kill(part)
    assert served.post(video).content == expected
    answers = load()
    assert {(r.status_code, r.text[:300] if r.status_code != 200 else "") for r in answers} == {
        (200, "")
    }
    assert {r.content for r in answers} == {expected}


def test_a_new_checkpoint_is_taken_over_while_requests_run(
    served: Served, video: bytes, load: Any, tmp_path: Path
) -> None:
    old = served.post(video)
    write_checkpoint(tmp_path / "new", seed=1)
    for file in (tmp_path / "new").iterdir():
        shutil.copy(file, served.checkpoint / file.name)
    served.rollout.look()
    new_hash = ""

    def is_new() -> bool:
        nonlocal new_hash
        new_hash = served.post(video).headers["x-avs-checkpoint"]
        return new_hash != old.headers["x-avs-checkpoint"]

    _wait(is_new)
    answers = load()
    assert {(r.status_code, r.text[:300] if r.status_code != 200 else "") for r in answers} == {
        (200, "")
    }
    by_hash: dict[str, set[bytes]] = {}
    for answer in answers:
        by_hash.setdefault(answer.headers["x-avs-checkpoint"], set()).add(answer.content)
    assert by_hash.keys() <= {old.headers["x-avs-checkpoint"], new_hash}
    assert all(len(bodies) == 1 for bodies in by_hash.values())  # none is half of each
    assert by_hash[new_hash] != {old.content}
    assert any("taking over" in line for line in served.said)


def test_a_bad_checkpoint_is_refused_while_the_old_one_goes_on(
    served: Served, video: bytes
) -> None:
    before = served.post(video)
    weights = served.checkpoint / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    try:
        served.rollout.look()
        served.rollout.look()
        assert sum("refused" in line for line in served.said) == 1  # told once
        after = served.post(video)
        assert after.content == before.content
        assert after.headers["x-avs-checkpoint"] == before.headers["x-avs-checkpoint"]
        _kill("Segmenter-default")  # the next one finds no good checkpoint in the old place
        assert served.post(video).content == before.content
    finally:
        weights.write_bytes(good)


def test_work_stops_when_the_client_leaves(served: Served, tmp_path: Path) -> None:
    video = _clip(tmp_path, duration_s=190)
    with httpx.stream(
        "POST",
        f"{served.url}/v1/segment",
        params={"format": "stream", "masks_per_s": "30"},
        files={"file": ("long.mp4", video)},
        timeout=60,
        trust_env=False,
    ) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["event"] == "start"
        assert json.loads(next(lines))["event"] == "masks"
        assert _is_busy("Decoder")
    _wait(lambda: not _is_busy("Decoder"), timeout_s=20)  # all of it would take minutes
    _wait(lambda: not _is_busy("Segmenter-default"), timeout_s=20)


def test_stopping_finishes_what_runs(served: Served, video: bytes) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(served.post, video, masks_per_s="20")
        _wait(lambda: _is_busy("Decoder"))
        service.stop(served.rollout)
        assert answer.result().status_code == 200
