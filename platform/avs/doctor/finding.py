"""What a check says: one line with its cure."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Check", "Finding", "Status", "fail", "ok", "skip", "warn"]


class Status(enum.Enum):
    """Fine, works but badly, must be mended, was not looked at."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what was found, and how to cure it (empty where it is fine)."""

    status: Status
    name: str
    found: str
    cure: str = ""

    def line(self, width: int = 0) -> str:
        """The finding as the job prints it, its name in ``width`` columns."""
        cure = f" -> {self.cure}" if self.cure else ""
        text = f"{self.status.value:<4}  {self.name:<{width}}  {self.found}{cure}"
        return " ".join(text.splitlines())


@dataclass(frozen=True, slots=True)
class Check:
    """A part of the examination; ``look`` may take long, raise, or never end."""

    name: str
    look: Callable[[], Sequence[Finding]]


def ok(name: str, found: str) -> Finding:
    """Fine."""
    return Finding(Status.OK, name, found)


def warn(name: str, found: str, cure: str) -> Finding:
    """Works, but not as it should."""
    return Finding(Status.WARN, name, found, cure)


def fail(name: str, found: str, cure: str) -> Finding:
    """Must be mended."""
    return Finding(Status.FAIL, name, found, cure)


def skip(name: str, found: str, cure: str = "") -> Finding:
    """Was not looked at; ``cure`` tells how to have it."""
    return Finding(Status.SKIP, name, found, cure)
