"""The jobs' metrics: ``ray.util.metrics``, which Prometheus gets from Ray's agent on each node.

Made at their first use. Where Ray is not running, or was never imported, nothing happens: the
training loop, media and models stay without it.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

__all__ = ["count_items", "observe_seconds", "show_training"]

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_TRAINING = {
    "loss": ("avs_train_loss", "Mean loss of the last steps"),
    "clips_per_s": ("avs_train_clips_per_s", "Clips a second on all ranks, in this epoch"),
    "stall_share": ("avs_train_stall_share", "Share of the time that waited for clips, 0..1"),
    "epoch": ("avs_train_epoch", "The epoch that is trained, from 1"),
}


def observe_seconds(seconds: float, *, job: str, stage: str) -> None:
    """Add to the histogram ``avs_job_stage_seconds``."""
    if _ray_runs():
        _made("Histogram", "avs_job_stage_seconds").observe(seconds, {"job": job, "stage": stage})


def count_items(count: int, *, job: str, status: str) -> None:
    """Add to the counter ``avs_job_items``; ``status`` is ok, rejected, skipped, ..."""
    if count > 0 and _ray_runs():
        _made("Counter", "avs_job_items").inc(count, {"job": job, "status": status})


def show_training(
    *,
    run: str,
    epoch: int,
    loss: float,
    clips_per_s: float | None = None,
    stall_share: float | None = None,
) -> None:
    """Set the gauges ``avs_train_loss``, ``..._clips_per_s``, ``..._stall_share``, ``..._epoch``.

    run: the folder of the training; what is None is left as it was.
    """
    values = {
        "epoch": float(epoch),
        "loss": loss,
        "clips_per_s": clips_per_s,
        "stall_share": stall_share,
    }
    if _ray_runs():
        for name, value in values.items():
            if value is not None:
                _made("Gauge", _TRAINING[name][0], _TRAINING[name][1]).set(value, {"run": run})


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@cache  # Ray warns about a second one of a name
def _made(kind: str, name: str, about: str = "") -> Any:
    from ray.util import metrics

    if kind == "Histogram":
        return metrics.Histogram(
            name,
            "Seconds of a stage of a job, of one item",
            boundaries=list(_SECONDS),
            tag_keys=("job", "stage"),
        )
    if kind == "Counter":
        return metrics.Counter(name, "Items of a job", tag_keys=("job", "status"))
    return metrics.Gauge(name, about, tag_keys=("run",))
