"""A made-up backend, and the service in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient
from omegaconf import OmegaConf

from avs import storage
from avs.config import build
from avs.serving.app import Service, build_app
from avs.serving.batches import Batches
from avs.serving.batches_command import BatchPlan, Weights
from avs.serving.batches_jobs import Job, Jobs
from avs.serving.choice import Choice
from avs.serving.config import BatchesConfig, ServingConfig
from avs.serving.doors import Doors
from avs.serving.fetching import FetchLimits
from avs.serving.messages import (
    Head,
    LiveAnswer,
    LiveRequest,
    ModelInfo,
    Options,
    Part,
    Refusal,
    Upload,
)
from avs.serving.meters import Meters
from avs.serving.scratch import Scratch
from avs.serving.tokens import Gate, read_tokens
from avs.serving.uploads import Intake

CONFIGS = Path(__file__).parents[3] / "configs"
BASE_URL = "http://127.0.0.1:8000"
HASH = "0123456789abcdef"


@dataclass
class FakeBackend:
    """Remembers what it was asked and answers what it is told to: parts, waits in seconds, errors.

    num_begun, num_closed: its answers, closed whether they ended or not.
    """

    parts: Sequence[Part | float | Exception] = (Head(HASH, 13), b'{"masks": []}')
    is_up: bool = True
    asked: list[tuple[Upload, Options]] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    num_begun: int = 0
    num_closed: int = 0

    async def segment(self, upload: Upload, options: Options) -> AsyncGenerator[Part, None]:
        self.asked.append((upload, options))
        there = upload.data is not None
        self.received.append(upload.data if there else storage.read_bytes(upload.uri))  # type: ignore[arg-type]
        self.num_begun += 1
        try:
            for part in self.parts:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, float):
                    await asyncio.sleep(part)
                else:
                    yield part
        finally:
            await asyncio.sleep(0)  # what is closed may have to wait for others
            self.num_closed += 1

    async def live(self, _: LiveRequest) -> LiveAnswer | Refusal:
        return LiveAnswer(
            frame=np.zeros((8, 8, 3), np.uint8), mask={"objects": []}, height_px=8, width_px=8
        )

    async def models(self) -> list[ModelInfo]:
        return [model_info("default")]

    async def metrics(self) -> str:
        return "ray_avs_answered 3\n"

    async def is_ready(self) -> bool:
        return self.is_up


class FakeJobs:
    """A job server that remembers; ``away`` is raised by all of it, ``calls`` are its methods."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.submitted: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.away: Exception | None = None

    def submit(self, id: str, command: str, **told: Any) -> bool:  # noqa: A002
        self._called("submit")
        if id in self.jobs:
            return False
        self.submitted.append({"id": id, "command": command, **told})
        kept = {name: told[name] for name in ("owner", "request", "checkpoint")}
        begun_s = 1e9 + len(self.jobs)
        self.jobs[id] = Job(id=id, status="PENDING", begun_s=begun_s, **kept)
        return True

    def find(self, id: str) -> Job | None:  # noqa: A002
        self._called("find")
        return self.jobs.get(id)

    def all(self) -> list[Job]:
        self._called("all")
        return list(self.jobs.values())

    def stop(self, id: str) -> None:  # noqa: A002
        self._called("stop")
        self.change(id, status="STOPPED", ended_s=2e9)

    def change(self, id_: str, **changes: Any) -> None:
        """What happens to a job meanwhile."""
        self.jobs[id_] = replace(self.jobs[id_], **changes)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.away is not None:
            raise self.away


class CountingMeters(Meters):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.rejections: list[str] = []
        self.answers: list[tuple[int, str]] = []
        self.open: list[int] = []

    def rejected(self, reason: str) -> None:
        self.rejections.append(reason)

    def answered(self, status: int, kind: str) -> None:
        self.answers.append((status, kind))

    def open_requests(self, count: int) -> None:
        self.open.append(count)


def model_info(name: str) -> ModelInfo:
    """A model as segmenters tell it."""
    return ModelInfo(
        name=name,
        is_default=name == "default",
        share=1.0,
        checkpoint=HASH,
        network="tpavi",
        num_frames=5,
        image_size_px=64,
        class_names=("background", "sounding"),
        finds_objects=False,
        metrics={"miou": 0.5},
        card="# A card\n",
    )


def serving_config(**changes: Any) -> ServingConfig:
    """configs/serving/usual.yaml; a section is changed by a dict of its keys."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "serving" / "usual.yaml"))
    for key, value in changes.items():
        plain[key] = {**plain[key], **value} if isinstance(value, dict) else value
    config: ServingConfig = build(ServingConfig, plain, path="")
    return config


def service_app(
    backend: FakeBackend,
    *,
    scratch: Path,
    tokens: str = "",
    host: str = "127.0.0.1",
    models: dict[str, float] | None = None,
    max_open_requests: int = 2,
    meters: Meters | None = None,
    jobs: Jobs | None = None,
    **changes: Any,
) -> FastAPI:
    """The app; ``tokens`` as in AVS_API_TOKENS, ``models`` with their shares."""
    config = serving_config(**changes)
    given = {"AVS_API_TOKENS": tokens}
    service = Service(
        limits=config.limits,
        max_open_requests=max_open_requests,
        intake=Intake(
            scratch=Scratch(str(scratch)),
            spool_above_bytes=config.spool_above_bytes,
            fetch=FetchLimits(
                max_bytes=config.limits.max_body_bytes,
                timeout_s=config.fetch.timeout_s,
                s3_prefixes=tuple(f"{p.rstrip('/')}/" for p in config.fetch.s3_prefixes),
            ),
            https=config.fetch.https,
        ),
        gate=Gate(read_tokens(given, access=config.access, host=host), config.access),
        doors=Doors.of(
            host,
            allowed_hosts=config.access.allowed_hosts,
            origins=config.access.allowed_origins,
        ),
        live=config.live,
        choice=Choice.among(models or {}),
        meters=meters or Meters(),
    )
    return build_app(backend, service, made_up_batches(config.batches, jobs or FakeJobs()))


def made_up_batches(config: BatchesConfig, jobs: Jobs) -> Batches:
    """Batches of a service whose one model is ``default``."""
    plan = BatchPlan(
        config=config, python="python", program="jobs/segment.py", runtime_env={"env_vars": {}}
    )
    batches = Batches(plan if config.is_on else None, jobs=jobs)
    batches.weights = {"default": Weights(uri="s3://models/run", digest=HASH)}
    return batches


def client_of(app: FastAPI) -> TestClient:
    """A program on this machine; a defect is an answer, as behind a server."""
    return TestClient(app, base_url=BASE_URL, raise_server_exceptions=False)


def error_of(response: Any) -> tuple[int, str, str]:
    """Status, code and message of an error, which holds nothing else."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return response.status_code, body["error"]["code"], body["error"]["message"]


def code_of(response: Any) -> tuple[int, str]:
    """The same without the message."""
    return error_of(response)[:2]
