"""What a job server must tell of batches: it is their only memory, and outlives every replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Job", "JobServerAwayError", "Jobs"]


class JobServerAwayError(Exception):
    """Ray's job server did not answer as it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A submission of ours. ``status``: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED. ``request``
    is the text of a BatchRequest. ``message``: Ray's words with the end of the log, for no client.
    Times are seconds since 1970."""

    id: str
    status: str
    owner: str
    request: str
    checkpoint: str
    begun_s: float
    ended_s: float | None = None
    exit_code: int | None = None
    message: str = ""

    @property
    def is_over(self) -> bool:
        """Whether its status is final."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Jobs(Protocol):
    """What batches need of a job server. All methods block and may raise JobServerAwayError."""

    def submit(
        self,
        id: str,  # noqa: A002 (as Job has it)
        command: str,
        *,
        owner: str,
        request: str,
        checkpoint: str,
        runtime_env: Mapping[str, Any],
        num_cpus: float,
    ) -> bool:
        """Start a job; False where the id was taken meanwhile."""

    def find(self, id: str) -> Job | None:  # noqa: A002
        """The job of an id."""

    def all(self) -> list[Job]:
        """All of ours."""

    def stop(self, id: str) -> None:  # noqa: A002
        """Ask a job to end; returns before it has."""
