"""What is told about one clip on its way: how long a stage took, and why it was rejected."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from avs.telemetry.lines import LOGGER
from avs.telemetry.meters import count_items, observe_seconds

__all__ = ["log_line", "reject", "stage"]

_LOG = logging.getLogger(LOGGER)


@contextmanager
def stage(job: str, name: str, *, clip_id: str | None = None) -> Iterator[None]:
    """Measure a stage, also one that fails: ``avs_job_stage_seconds`` and a DEBUG line.

    clip_id: of what is worked on; a video's name where it has no clips.
    """
    start_s, ended = time.perf_counter(), "failed"
    try:
        yield
        ended = "done"
    finally:
        seconds = time.perf_counter() - start_s
        observe_seconds(seconds, job=job, stage=name)
        if _LOG.isEnabledFor(logging.DEBUG):
            told = {"stage": name, "clip_id": clip_id, "seconds": seconds}
            _LOG.debug("%s %s", name, ended, extra=told)


def log_line(
    message: str, *, level: int = logging.INFO, stage: str | None = None, clip_id: str | None = None
) -> None:
    """A line of the run that this process works for."""
    _LOG.log(level, message, extra={"stage": stage, "clip_id": clip_id})


def reject(clip_id: str, *, job: str, stage: str, reason: str, counts: bool = True) -> None:
    """A WARNING line for a clip (or video) that is left out, and ``avs_job_items``.

    counts: False where another process has counted it, so that it is one item.
    """
    log_line(f"rejected: {reason}", level=logging.WARNING, stage=stage, clip_id=clip_id)
    if counts:
        count_items(1, job=job, status="rejected")
