"""What the service measures of itself, through ``ray.serve.metrics``.

Every part has its own; Prometheus gets them from Ray's agent on each node, and ``GET /metrics``
gathers those of all nodes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Meters", "RayMeters", "timed"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_WINDOWS = (1, 2, 4, 8, 16, 32, 64)


class Meters:
    """Where a part of the service tells what it does; this one keeps nothing."""

    def stage(self, name: str, seconds: float) -> None:
        """How long a stage of one request (upload, fetch, decode, ...) took."""

    def rejected(self, reason: str) -> None:
        """A request was refused; ``reason`` is the code of its error."""

    def answered(self, status: int, kind: str) -> None:
        """A request for a format got its status."""

    def open_requests(self, count: int) -> None:
        """Requests that are worked on or wait."""

    def batch(self, num_windows: int) -> None:
        """Windows of one forward."""


class RayMeters(Meters):
    """The metrics avs_stage_seconds, avs_rejected, avs_answered, avs_open_requests and
    avs_batch_windows; only inside a replica, which tags them with its name."""

    def __init__(self) -> None:
        from ray.serve import metrics

        self._stages = metrics.Histogram(
            "avs_stage_seconds",
            "Seconds of a stage",
            boundaries=list(_SECONDS),
            tag_keys=("stage",),
        )
        self._rejected = metrics.Counter("avs_rejected", "Refused requests", tag_keys=("reason",))
        self._answered = metrics.Counter(
            "avs_answered",
            "Answered requests",
            tag_keys=("status", "format"),  # type: ignore[arg-type]
        )
        self._open = metrics.Gauge("avs_open_requests", "Requests worked on or waiting")
        self._batch = metrics.Histogram(
            "avs_batch_windows", "Windows of a forward", boundaries=[float(n) for n in _WINDOWS]
        )

    def stage(self, name: str, seconds: float) -> None:
        """See :class:`Meters`."""
        self._stages.observe(seconds, {"stage": name})

    def rejected(self, reason: str) -> None:
        """See :class:`Meters`."""
        self._rejected.inc(1.0, {"reason": reason})

    def answered(self, status: int, kind: str) -> None:
        """See :class:`Meters`."""
        self._answered.inc(1.0, {"status": str(status), "format": kind})

    def open_requests(self, count: int) -> None:
        """See :class:`Meters`."""
        self._open.set(float(count))

    def batch(self, num_windows: int) -> None:
        """See :class:`Meters`."""
        self._batch.observe(float(num_windows))


@contextmanager
def timed(meters: Meters, stage: str) -> Iterator[None]:
    """Measure a stage, also one that fails."""
    start_s = time.perf_counter()
    try:
        yield
    finally:
        meters.stage(stage, time.perf_counter() - start_s)
