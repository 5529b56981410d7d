"""The HTTP replica: it talks to clients and waits for others, and computes nothing."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from avs.serving.app import Service, build_app
from avs.serving.batches import Batches
from avs.serving.batches_command import Weights
from avs.serving.batches_ray import JobServer
from avs.serving.calling import GONE, TRIES, call, pause, unavailable
from avs.serving.guard import too_busy
from avs.serving.messages import (
    NO_ROOM,
    ApiError,
    Head,
    LiveAnswer,
    LiveRequest,
    ModelInfo,
    Options,
    Part,
    Refusal,
    Upload,
)
from avs.serving.meters import RayMeters
from avs.serving.parts import APP_NAME, DECODER, segmenter_name
from avs.serving.spec import ModelSpec

__all__ = ["Ingress"]

_CACHE_S = 1.0
_SCRAPE_TIMEOUT_S = 5.0
_OURS = "ray_avs_"  # those of Serve itself are a megabyte


class _NoRoomError(Exception):
    """A decoder cannot, where another may."""


class Ingress:
    """Serve runs the app that ``__serve_build_asgi_app__`` returns."""

    def __init__(
        self,
        decoder: DeploymentHandle[Any],
        segmenters: dict[str, DeploymentHandle[Any]],
        service: Service,
    ) -> None:
        self._decoder, self._segmenters = decoder, segmenters
        self._service = replace(service, meters=RayMeters())
        self._timeout_s = service.limits.request_timeout_s
        self._ready_until_s = 0.0
        self._models: tuple[float, list[ModelInfo]] = (0.0, [])
        self._batches = _batches(service)

    def __serve_build_asgi_app__(self) -> FastAPI:
        self._app = build_app(self, self._service, self._batches)
        return self._app

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """``is_open`` false: let no new request in; /readyz tells when the last one has ended.
        ``checkpoints`` are those of new batches."""
        told = user_config["checkpoints"].items()
        self._batches.weights = {name: Weights(**weights) for name, weights in told}
        if not user_config["is_open"]:
            self._app.state.places.close()

    async def segment(self, upload: Upload, options: Options) -> AsyncGenerator[Part, None]:
        """The parts of an answer; when a decoder dies another one goes on behind what was sent."""
        data = None if upload.data is None else await asyncio.to_thread(ray.put, upload.data)
        bare = replace(upload, data=None)
        head: Head | None = None
        num_sent = 0
        for attempt in range(TRIES):
            num_known, is_over = num_sent, False
            parts: Any = self._decoder.options(stream=True).segment.remote(
                data, bare, options, self._timeout_s
            )
            try:
                async for part in parts:
                    if _wants_another(part) and attempt + 1 < TRIES:
                        raise _NoRoomError
                    if isinstance(part, bytes):
                        known, num_known = part[:num_known], max(0, num_known - len(part))
                        fresh = part[len(known) :]
                        num_sent += len(fresh)
                        if fresh:
                            yield fresh
                    elif isinstance(part, Refusal) or head is None:
                        head = part if isinstance(part, Head) else head
                        yield part
                    elif part.checkpoint != head.checkpoint:
                        raise unavailable()
                is_over = True
                return
            except BackPressureError:
                raise too_busy() from None
            except (*GONE, _NoRoomError):
                await pause(attempt)
            finally:
                if not is_over:
                    parts.cancel()
        raise unavailable()

    async def live(self, request: LiveRequest) -> LiveAnswer | Refusal:
        """One picture of a camera."""
        try:
            answer: LiveAnswer | Refusal = await call(lambda: self._decoder.live.remote(request))
        except ApiError as error:
            return Refusal(error.status, error.code, error.message)
        return answer

    async def models(self) -> list[ModelInfo]:
        """Asked for at most once a second."""
        until_s, infos = self._models
        if time.monotonic() > until_s:
            handles = self._segmenters.values()
            specs: list[ModelSpec] = [await call(handle.spec.remote) for handle in handles]
            infos = [spec.info for spec in specs]
            self._models = (time.monotonic() + _CACHE_S, infos)
        return infos

    async def metrics(self) -> str:
        """Those of all nodes, from Ray's agents there."""
        return await asyncio.to_thread(_scrape)

    async def is_ready(self) -> bool:
        """Whether decoders and segmenters of all models run; asked for at most once a second."""
        if time.monotonic() < self._ready_until_s:
            return True
        names = [DECODER, *(segmenter_name(name) for name in self._segmenters)]
        is_ready = await asyncio.to_thread(_run_all, names)
        if is_ready:
            self._ready_until_s = time.monotonic() + _CACHE_S
        return is_ready


def _batches(service: Service) -> Batches:
    config = None if service.batches is None else service.batches.config
    address, timeout_s = (config.job_address, config.timeout_s) if config else (None, 1.0)
    return Batches(service.batches, jobs=JobServer(address, timeout_s=timeout_s))


def _run_all(names: list[str]) -> bool:
    """Asks the controller and not the replicas, which may be busy."""
    application = serve.status().applications.get(APP_NAME)
    if application is None:
        return False
    for name in names:
        deployment = application.deployments.get(name)
        # Serve's annotation says ReplicaState, the keys are texts
        states: Mapping[Any, int] = deployment.replica_states if deployment else {}
        if states.get("RUNNING", 0) + states.get("UPDATING", 0) < 1:
            return False
    return True


def _scrape() -> str:
    lines: list[str] = []
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        if not node["Alive"]:
            continue
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        try:
            with opener.open(url, timeout=_SCRAPE_TIMEOUT_S) as answer:
                text = answer.read().decode()
        except OSError:
            continue  # a node that is going; the others' still count
        lines += [line for line in text.splitlines() if _is_ours(line)]
    return "\n".join(dict.fromkeys(lines)) + "\n"  # every node repeats HELP and TYPE


def _is_ours(line: str) -> bool:
    return line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(_OURS)


def _wants_another(part: Part) -> bool:
    return isinstance(part, Refusal) and part.code == NO_ROOM
