"""Which checkpoints are served, and how newer ones take over while requests run.

A new checkpoint is loaded and run in the driver first: a bad one is told of and changes nothing.
A good one goes to the running segmenters as their user configuration, which they load beside the
old one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from avs import storage
from avs.errors import ConfigError
from avs.inference.predictor import Predictor, checkpoint_hash
from avs.serving.app import Service
from avs.serving.batches_ray import batch_plan
from avs.serving.choice import DEFAULT_MODEL, Choice
from avs.serving.config import ServeConfig
from avs.serving.deployments import APP_NAME, INGRESS_CPUS, Plan, Served, build_application
from avs.serving.doors import Doors
from avs.serving.fetching import FetchLimits
from avs.serving.meters import Meters
from avs.serving.scratch import Scratch, default_scratch
from avs.serving.tokens import Gate, Token
from avs.serving.uploads import Intake
from avs.training.checkpoint import copy_checkpoint
from avs.training.resolve import find_checkpoint

__all__ = ["QUIET", "Rollout", "make_service", "tried"]

QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


class Rollout:
    """The served checkpoints of a configuration; made means all of them were loaded once.

    Raises:
        ConfigError: the cluster has no room. CheckpointError: a checkpoint cannot be used.
    """

    def __init__(
        self, config: ServeConfig, *, tokens: Sequence[Token], say: Callable[[str], None]
    ) -> None:
        self._config, self._say = config, say
        self.url = _base_url(config)
        self.has_tokens = bool(tokens)
        # By port: a service that starts clears its own folder, not that of another one beside it.
        self.scratch = Scratch(config.scratch or f"{default_scratch()}/avs-{config.port}")
        self.scratch.clear()
        self._sources = {
            DEFAULT_MODEL: config.checkpoint,
            **{name: extra.checkpoint for name, extra in config.models.items()},
        }
        # What is cheap to check comes before what takes long.
        num_segmenters = _num_segmenters(config, num_models=len(self._sources))
        found = {name: find_checkpoint(source) for name, source in self._sources.items()}
        for name, one in found.items():
            say(f"serve: with {one}" if name == DEFAULT_MODEL else f"serve: model={name}: {one}")
        self._refused: dict[str, str] = {}
        self._served = {name: self._kept(one.uri) for name, one in found.items()}
        sizes = {name: tried(served.uri) for name, served in self._served.items()}
        self._plan = Plan(num_segmenters=num_segmenters, windows_per_forward=sizes)
        self._service = make_service(config, tokens=tokens, plan=self._plan, scratch=self.scratch)

    def deploy(self, *, is_open: bool = True) -> None:
        """Bring what is served to these checkpoints; returns before it is.

        ``is_open``: whether new requests are let in.
        """
        application = build_application(
            self._config,
            checkpoints=self._served,
            plan=self._plan,
            service=self._service,
            is_open=is_open,
        )
        target = serve.RunTarget(target=application, name=APP_NAME, logging_config=QUIET)
        serve.run_many([target], wait_for_applications_running=False)

    def look(self) -> bool:
        """Look for other checkpoints in the same places, and take over those that are good.

        Returns whether there was one.
        """
        is_newer = [self._take(name, source) for name, source in self._sources.items()]
        if any(is_newer):
            self.deploy()
        return any(is_newer)

    def _kept(self, uri: str) -> Served:
        """A checkpoint as it is now: replicas that start later must not find another in its place.

        Where the nodes share no scratch it is read where it lies, and its hash is checked there.
        """
        served = Served(uri=uri, digest=checkpoint_hash(uri))
        if self._config.scratch is None and _num_nodes() > 1:
            return served
        copy = storage.join(self.scratch.uri, "checkpoints", served.digest)
        copy_checkpoint(uri, copy)
        return replace(served, uri=copy)

    def _take(self, name: str, source: str) -> bool:
        try:
            uri = find_checkpoint(source).uri
            digest = checkpoint_hash(uri)
            if digest in (self._served[name].digest, self._refused.get(name)):
                return False
        except Exception as error:  # whatever storage brings about, the service goes on
            self._say(f"serve: model={name}: the old checkpoint stays: {error}")
            return False
        try:
            served = self._kept(uri)
            tried(served.uri)
        except Exception as error:  # whatever a file brings about, the service goes on
            self._refused[name] = digest  # told once
            self._say(f"serve: model={name}: {uri} is refused, the old one stays: {error}")
            return False
        self._served[name] = served
        self._say(f"serve: model={name}: taking over {uri}")
        return True


def _num_nodes() -> int:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(bool(node["Alive"]) for node in nodes)


def tried(uri: str) -> int:
    """Load a checkpoint and run it once, on the CPU; its windows per forward."""
    predictor = Predictor.from_checkpoint(uri)
    predictor.warm_up()
    return predictor.windows_per_forward


def make_service(
    config: ServeConfig, *, tokens: Sequence[Token], plan: Plan, scratch: Scratch
) -> Service:
    num_models = len(plan.windows_per_forward)
    num_working = max(plan.num_segmenters * num_models, config.decoders)
    return Service(
        limits=config.limits,
        max_open_requests=num_working + config.limits.max_queued_requests,
        intake=Intake(
            scratch=scratch,
            spool_above_bytes=config.spool_above_bytes,
            fetch=FetchLimits(
                max_bytes=config.limits.max_body_bytes,
                timeout_s=config.fetch.timeout_s,
                s3_prefixes=tuple(f"{p.rstrip('/')}/" for p in config.fetch.s3_prefixes),
            ),
            https=config.fetch.https,
        ),
        gate=Gate(tokens, config.access),
        doors=Doors.of(
            config.host,
            allowed_hosts=config.access.allowed_hosts,
            origins=config.access.allowed_origins,
        ),
        live=config.live,
        choice=Choice.among({name: extra.share for name, extra in config.models.items()}),
        meters=Meters(),
        batches=batch_plan(config.batches),
    )


def _num_segmenters(config: ServeConfig, *, num_models: int) -> int:
    """``scale.num_workers`` of each model, or as many as fit beside ingress and decoders."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    scale = config.scale
    others = INGRESS_CPUS + config.decoders * config.decoder_cpus + config.batches.cpus
    cpus, gpus = there.get("CPU", 0.0) - others, there.get("GPU", 0.0) - config.batches.gpus
    size = scale.num_workers
    for each, total in ((scale.cpus_per_worker, cpus), (scale.gpus_per_worker, gpus)):
        if each:
            size = min(size, int((total + 1e-9) / each / num_models))
    if size < 1:
        raise ConfigError(
            f"scale asks for {scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} GPUs a "
            f"segmenter, {num_models} of them, beside {others:g} CPUs for HTTP, decoders and "
            f"batches; the cluster has {there.get('CPU', 0):g} CPUs and "
            f"{there.get('GPU', 0):g} GPUs: lower scale.cpus_per_worker, decoders, decoder_cpus "
            "or batches.scale."
        )
    return size


def _base_url(config: ServeConfig) -> str:
    """Where this machine reaches the service: an address for "everywhere" is none to call."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
