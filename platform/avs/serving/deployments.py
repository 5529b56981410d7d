"""The Serve application: an HTTP ingress, decoders, and segmenters for each model.

    client -> proxy -> Ingress (limits, tokens) -> Decoder (CPU) -> Segmenter-NAME (CPU or GPU)

Uploads travel by object reference or lie in scratch, windows by object reference, answers in parts
back the same way. A checkpoint is user configuration of its segmenters, so a new one reaches the
running replicas and none is started for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig

from avs.serving.app import Service
from avs.serving.config import ServeConfig
from avs.serving.ingress import Ingress
from avs.serving.parts import APP_NAME, DECODER, INGRESS, segmenter_name
from avs.serving.replicas import Decoder, Segmenter

__all__ = ["APP_NAME", "INGRESS_CPUS", "Plan", "Served", "build_application"]

INGRESS_CPUS = 0.1  # it waits for others nearly all the time
_CONSTRUCTOR_TRIES = 2  # Serve's default of 20 would loop on a broken checkpoint
_SPARE_REQUESTS = 32  # probes get through while the queue is full
_REQUESTS_PER_DECODER = 16  # videos that wait for their turn, and pictures of cameras, which do not
_KEEP_MARGIN_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How many replicas fit. windows_per_forward: of each model."""

    num_segmenters: int
    windows_per_forward: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A checkpoint folder and the hash of what lay there when it was looked at."""

    uri: str
    digest: str


def build_application(
    config: ServeConfig,
    *,
    checkpoints: Mapping[str, Served],
    plan: Plan,
    service: Service,
    is_open: bool = True,
) -> serve.Application:
    """The application for ``serve.run``; ``checkpoints`` by name, reachable from every node.

    ``is_open``: whether new requests are let in.
    """
    segmenters = {
        name: _segmenter(config, name, served, plan).bind(
            name,
            service.choice.shares[name],
            config.scale.device,
            config.limits.request_timeout_s + _KEEP_MARGIN_S,
        )
        for name, served in checkpoints.items()
    }
    decoder = serve.deployment(
        name=DECODER,
        num_replicas=config.decoders,
        ray_actor_options={"num_cpus": config.decoder_cpus},
        max_ongoing_requests=_REQUESTS_PER_DECODER,
        max_queued_requests=service.max_open_requests,
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
    )(Decoder)
    bound_decoder = _steady(decoder).bind(segmenters, config.limits, service.intake.scratch)
    ingress = serve.deployment(
        name=INGRESS,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        max_ongoing_requests=service.max_open_requests + _SPARE_REQUESTS,
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
        user_config={
            "is_open": is_open,
            "checkpoints": {name: asdict(served) for name, served in checkpoints.items()},
        },
    )(serve.ingress()(Ingress))
    return _steady(ingress).bind(bound_decoder, segmenters, service)


def _segmenter(config: ServeConfig, name: str, served: Served, plan: Plan) -> serve.Deployment:
    # Twice a batch: the next one waits in the replica while this one is computed.
    num_ongoing = 2 * plan.windows_per_forward[name] + 2
    size: dict[str, Any] = {"num_replicas": plan.num_segmenters}
    if config.min_segmenters is not None and config.min_segmenters < plan.num_segmenters:
        size = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=config.min_segmenters,
                max_replicas=plan.num_segmenters,
                target_ongoing_requests=plan.windows_per_forward[name] + 1,
            )
        }
    segmenter = serve.deployment(
        name=segmenter_name(name),
        ray_actor_options={
            "num_cpus": config.scale.cpus_per_worker,
            "num_gpus": config.scale.gpus_per_worker,
        },
        max_ongoing_requests=num_ongoing,
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
        # With the hash, because other weights may come to lie in the same place.
        user_config={"checkpoint": served.uri, "hash": served.digest},
        **size,
    )(Segmenter)
    return _steady(segmenter)


def _steady(deployment: serve.Deployment) -> serve.Deployment:
    """A deployment whose replicas stay when the application is deployed again.

    Ray 2.60 gives each ``serve.run`` a random version, which replaces all replicas, and lets
    nobody say one but by this private option.
    """
    return deployment.options(version="1", _internal=True)
