"""Progress lines of a job: at most one every two seconds, with rate and time left."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Progress"]


class Progress:
    """Count finished items of ``total`` and say so now and then.

    >>> progress = Progress("prepare", total=10, unit="clips", say=lambda line: None)
    >>> progress.add(10)
    """

    def __init__(
        self,
        name: str,
        *,
        total: int,
        unit: str,
        say: Callable[[str], None] | None = None,
        every_s: float = 2.0,
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._say = say or (lambda line: print(line, flush=True))
        self._every_s = every_s
        self._start_s = self._last_s = time.monotonic()
        self.done = 0

    def add(self, count: int, note: str = "") -> None:
        """Count ``count`` more items; ``note`` is shown at the end of the line."""
        self.done += count
        now_s = time.monotonic()
        if self.done < self._total and now_s - self._last_s < self._every_s:
            return
        self._last_s = now_s
        rate = self.done / max(now_s - self._start_s, 1e-9)
        left_s = (self._total - self.done) / rate if rate else 0.0
        line = f"{self._name}: {self.done}/{self._total} {self._unit}, {rate:.1f}/s"
        if self.done < self._total:
            line += f", about {left_s:.0f} s left"
        self._say(line + (f", {note}" if note else ""))
