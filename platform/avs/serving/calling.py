"""Calls between replicas that outlive a replica: work that a killed one had is done by another.

All of it may be done twice: masks are the same each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

from avs.serving.guard import too_busy
from avs.serving.messages import ApiError

__all__ = ["GONE", "TRIES", "call", "pause", "unavailable"]

# The replica died, or none is there yet.
GONE = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
TRIES = 8
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


async def call(send: Callable[[], Any]) -> Any:
    """The result of a call, sent again when its replica is gone.

    Raises:
        ApiError: 503, no replica stayed; 429, their queue is full.
    """
    for attempt in range(TRIES):
        response = send()
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            raise too_busy() from None
        except GONE:
            await pause(attempt)
    raise unavailable()


async def pause(attempt: int) -> None:
    """Before the next try: longer each time, so that a replica can start."""
    await asyncio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt))


def unavailable() -> ApiError:
    """The answer when no replica does the work."""
    return ApiError(503, "unavailable", "no decoder or segmenter is there; try again")
