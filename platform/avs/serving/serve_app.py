"""The service as Serve itself deploys it: ``serve deploy cluster/serve.yaml``, a RayService.

There is no driver that stays, so nothing looks for newer checkpoints: another configuration is
deployed instead, whose replicas take over from the old ones. ``build`` runs in a task of the
cluster, perhaps before its workers have come, and an older version of the same service may still
answer beside it; so it counts no nodes and clears no scratch.
"""

from __future__ import annotations

import os
from typing import Any

from ray import serve

from avs.config import parse
from avs.errors import ConfigError
from avs.inference.predictor import checkpoint_hash
from avs.serving.choice import DEFAULT_MODEL
from avs.serving.config import ServeConfig
from avs.serving.deployments import Plan, Served, build_application
from avs.serving.rollout import make_service, tried
from avs.serving.scratch import Scratch
from avs.serving.tokens import read_tokens
from avs.training.resolve import find_checkpoint

__all__ = ["build"]


def build(args: dict[str, Any]) -> serve.Application:
    """The application of ``import_path: avs.serving.serve_app:build``; its name must be ``avs``.

    ``args`` are all keys of configs/serve.yaml. Tokens come from AVS_API_TOKENS in the environment
    of the nodes, or from ``access.tokens_file`` there. Each model gets ``scale.num_workers``
    segmenters, or ``min_segmenters`` and more as load grows; Serve waits for nodes that have room.

    Raises:
        ConfigError: a key or value is wrong, or there are no tokens for an open address.
        CheckpointError: a checkpoint is missing, incomplete, of another version or does not fit.
    """
    config = parse(args, ServeConfig)
    scratch = _scratch(config)
    if config.reload_s is not None:
        raise ConfigError(
            f"reload_s={config.reload_s:g}: a deployed service does not look for newer "
            "checkpoints: write reload_s: null, and deploy again with the new one."
        )
    tokens = read_tokens(os.environ, access=config.access, host=config.host)
    extra = {name: model.checkpoint for name, model in config.models.items()}
    served = {
        name: _served(source)
        for name, source in {DEFAULT_MODEL: config.checkpoint, **extra}.items()
    }
    plan = Plan(
        num_segmenters=config.scale.num_workers,
        windows_per_forward={name: tried(one.uri) for name, one in served.items()},
    )
    service = make_service(config, tokens=tokens, plan=plan, scratch=scratch)
    return build_application(config, checkpoints=served, plan=plan, service=service)


def _scratch(config: ServeConfig) -> Scratch:
    if config.scratch is None:
        raise ConfigError(
            "scratch=null: HTTP and decoders of a deployed service may run on different nodes: "
            "give an s3:// prefix or a shared folder."
        )
    return Scratch(config.scratch)


def _served(source: str) -> Served:
    """Read where it lies, by every replica that starts, which checks the hash of what it finds."""
    uri = find_checkpoint(source).uri
    return Served(uri=uri, digest=checkpoint_hash(uri))
