"""A real service for tests: the usual configuration with small limits, started and stopped."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from avs.config import build
from avs.scale import ScaleConfig
from avs.serving import service
from avs.serving.config import LimitsConfig, ServeConfig

ROOT = Path(__file__).parents[2]
ONE_WORKER = ScaleConfig(num_workers=1, cpus_per_worker=1, gpus_per_worker=0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve_config(checkpoint: Path, **changes: Any) -> ServeConfig:
    """The usual one; keys of ``limits`` may be given beside those of the whole."""
    usual: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs/serving/usual.yaml"))
    values = {
        **usual,
        "checkpoint": str(checkpoint),
        "host": "127.0.0.1",
        "port": free_port(),
        "scale": {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0},
        "decoders": 1,
    }
    limits = {k: v for k, v in changes.items() if k in LimitsConfig.__slots__}
    values["limits"] = {**values["limits"], **limits}
    config: ServeConfig = build(ServeConfig, values, path="")
    return replace(config, **{k: v for k, v in changes.items() if k not in limits})


@contextmanager
def running(config: ServeConfig, *, environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """The base URL of a service that is stopped behind."""
    url, _ = service.start(config, environ=environ or {})
    try:
        yield url
    finally:
        service.stop()
