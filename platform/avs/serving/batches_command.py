"""The command of a batch: ``jobs/segment.py`` with its values, quoted for Hydra and for the shell
that Ray Jobs give it to."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from avs.overrides import quote_override
from avs.scale import ScaleConfig
from avs.serving.batches_request import BatchRequest
from avs.serving.config import BatchesConfig

__all__ = ["BatchPlan", "Weights", "command"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """How batches run in this cluster. ``runtime_env``: that of the service, so that they get the
    same code; it names packages that Ray keeps as long as the service lives."""

    config: BatchesConfig
    python: str
    program: str
    runtime_env: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A served checkpoint: a folder that every node reaches, and the hash of what lay there."""

    uri: str
    digest: str


def command(plan: BatchPlan, request: BatchRequest, *, checkpoint: str) -> str:
    """What a shell runs. ``checkpoint``: a folder that every node reaches."""
    texts = {"checkpoint": checkpoint, "input": request.input, "out": request.output}
    values: dict[str, Any] = {
        "outputs": f"[{','.join(request.outputs)}]",
        "threshold": request.threshold,
        "masks_per_s": request.masks_per_s,
        "objects": request.objects,
        "max_failed_ratio": request.max_failed_ratio,
        **_scale(plan.config.scale),
    }
    words = [shlex.quote(plan.python), shlex.quote(plan.program)]
    words += [quote_override(f"{key}={text}") for key, text in texts.items()]
    words += [shlex.quote(f"{key}={_value(value)}") for key, value in values.items()]
    return " ".join(words)


def _scale(scale: ScaleConfig) -> dict[str, Any]:
    return {f"scale.{key}": value for key, value in asdict(scale).items()}


def _value(value: object) -> str:
    """As Hydra reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
