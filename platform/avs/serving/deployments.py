"""The Serve application: an HTTP ingress and the segmenters behind it.

    client -> proxy -> Ingress (limits, form) -> by object reference -> Segmenter (1 at a time)

A segmenter works in one thread of its own, so its replica still answers health checks, and a
request that was given up while it waited is never begun. One that is being worked on runs to its
end: PyTorch cannot be interrupted, and ``max_duration_s`` bounds it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from avs.inference.outputs import OutputKind
from avs.scale import ScaleConfig
from avs.serving.app import build_app
from avs.serving.limits import RETRY_AFTER_S, Limits, too_busy
from avs.serving.messages import Answer, ApiError, Refusal
from avs.serving.segmenter import VideoSegmenter

__all__ = ["APP_NAME", "INGRESS_CPUS", "build_application"]

APP_NAME = "avs"
SEGMENTER = "Segmenter"
INGRESS_CPUS = 0.1  # it waits for others nearly all the time
_CONSTRUCTOR_TRIES = 2  # Serve's default of 20 would loop on a broken checkpoint
_READY_CACHE_S = 1.0
_SPARE_REQUESTS = 32  # probes get through while the queue is full


class Segmenter:
    """One Predictor; created means warmed up."""

    def __init__(self, checkpoint: str, device: str, max_duration_s: float) -> None:
        self._segment = VideoSegmenter(checkpoint, device=device, max_duration_s=max_duration_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segment")

    async def segment(
        self, data: bytes, name: str, kind: OutputKind, objects: bool
    ) -> Answer | Refusal:
        """See :class:`VideoSegmenter`."""
        work = partial(self._segment, data, name=name, kind=kind, objects=objects)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class Ingress:
    """The HTTP side: Serve runs the app that ``__serve_build_asgi_app__`` returns."""

    def __init__(self, segmenter: DeploymentHandle[Any], limits: Limits) -> None:
        self._segmenter, self._limits = segmenter, limits
        self._ready_until_s = 0.0

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self, self._limits)

    async def segment(
        self, data: bytes, *, name: str, kind: OutputKind, objects: bool
    ) -> Answer | Refusal:
        """Hand the upload to a segmenter by reference."""
        reference = await asyncio.to_thread(ray.put, data)
        response = self._segmenter.segment.remote(reference, name, kind, objects)
        try:
            answer: Answer | Refusal = await response
        except asyncio.CancelledError:
            response.cancel()  # type: ignore[no-untyped-call]
            raise
        except BackPressureError:
            raise too_busy() from None
        except (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError):
            retry = {"Retry-After": f"{RETRY_AFTER_S}"}
            raise ApiError(503, "unavailable", "no segmenter is there; try again", retry) from None
        return answer

    async def is_ready(self) -> bool:
        """Whether a segmenter runs, which it does once warmed up; asked at most once a second."""
        if time.monotonic() < self._ready_until_s:
            return True
        is_ready = await asyncio.to_thread(_runs_segmenter)
        if is_ready:
            self._ready_until_s = time.monotonic() + _READY_CACHE_S
        return is_ready


def _runs_segmenter() -> bool:
    """Asks the controller and not the segmenters, which answer nothing while they compute."""
    application = serve.status().applications.get(APP_NAME)
    deployment = application.deployments.get(SEGMENTER) if application else None
    states: Mapping[Any, int] = deployment.replica_states if deployment else {}
    return states.get("RUNNING", 0) > 0  # Serve's annotation says ReplicaState, the keys are texts


def build_application(
    checkpoint: str,
    *,
    limits: Limits,
    max_duration_s: float,
    num_segmenters: int,
    scale: ScaleConfig,
) -> serve.Application:
    """The application for ``serve.run``; ``checkpoint`` must be reachable from every node."""
    segmenter = serve.deployment(
        name=SEGMENTER,
        num_replicas=num_segmenters,
        ray_actor_options={
            "num_cpus": scale.cpus_per_worker,
            "num_gpus": scale.gpus_per_worker,
        },
        max_ongoing_requests=1,
        max_queued_requests=limits.max_open_requests,
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
    )(Segmenter).bind(checkpoint, scale.device, max_duration_s)
    ingress = serve.deployment(
        name="Ingress",
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        max_ongoing_requests=limits.max_open_requests + _SPARE_REQUESTS,
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
    )(serve.ingress()(Ingress))
    return ingress.bind(segmenter, limits)
