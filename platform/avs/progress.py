"""Progress of a job: lines with rate and time left, and a bar in one place on a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Progress", "StatusLine", "duration_text"]

_BAR_CELLS = 20


class Progress:
    """Count finished items of ``total`` and say so now and then.

    The rate is that of what follows the first ones: they wait for the start of workers, too.

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
        self._last_s = time.monotonic()
        self._first: tuple[float, int] | None = None
        self.done = 0

    def add(self, count: int, note: str = "") -> None:
        """Count ``count`` more items; ``note`` is shown at the end of the line."""
        self.done += count
        now_s = time.monotonic()
        self._first = self._first or (now_s, self.done)
        if self.done < self._total and now_s - self._last_s < self._every_s:
            return
        self._last_s = now_s
        line = f"{self._name}: {self.done}/{self._total} {self._unit}"
        first_s, num_first = self._first
        if now_s > first_s and self.done > num_first:
            rate = (self.done - num_first) / (now_s - first_s)
            line += f", {rate:.1f}/s"
            if self.done < self._total:
                line += f", about {duration_text((self._total - self.done) / rate)} left"
        self._say(line + (f", {note}" if note else ""))


class StatusLine:
    """How a job stands: drawn again in one place on a terminal, elsewhere a line now and then.

    >>> status = StatusLine("train", say=lambda line: None)
    >>> status.show("step 1/10", share=0.1)
    >>> status.say("epoch 1 done")
    >>> status.close()

    Args:
        name: of the job, before what is shown.
        say: takes lines that stay; only where it prints to a terminal, there is a bar.
        every_s: between two lines where there is none.
        terminal: where the bar is drawn; None for standard output, if that is a terminal.
    """

    def __init__(
        self,
        name: str,
        *,
        say: Callable[[str], None] = print,
        every_s: float = 10.0,
        terminal: TextIO | None = None,
    ) -> None:
        self._name, self._say, self._every_s = name, say, every_s
        if terminal is None and say is print and sys.stdout.isatty():
            terminal = sys.stdout
        self._terminal = terminal
        self._drawn = ""
        self._said_s = float("-inf")

    def show(self, text: str, *, share: float | None = None) -> None:
        """The state now; ``share`` of the work is done (0..1), None where nobody knows."""
        if self._terminal is not None:
            self._draw(f"{self._name}: {_bar(share)}{text}")
            return
        now_s = time.monotonic()
        if now_s - self._said_s >= self._every_s:
            self._said_s = now_s
            self._say(f"{self._name}: {text}")

    def say(self, text: str) -> None:
        """A line that stays; the bar goes on below it."""
        drawn = self._drawn
        self.close()
        self._say(f"{self._name}: {text}")
        if drawn:
            self._draw(drawn)

    def close(self) -> None:
        """Take the bar away."""
        if self._drawn:
            self._draw("")

    def _draw(self, line: str) -> None:
        assert self._terminal is not None
        # The last column stays free: some terminals go to the next line when it is written.
        room = shutil.get_terminal_size().columns - 1
        shown = line[:room]
        self._terminal.write("\r" + shown.ljust(len(self._drawn)) + ("" if line else "\r"))
        self._terminal.flush()
        self._drawn = shown


def duration_text(seconds: float) -> str:
    """A time for people: ``45 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``.

    >>> duration_text(11105)
    '3 h 5 min'
    """
    if round(seconds) < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def _bar(share: float | None) -> str:
    if share is None:
        return ""
    share = min(max(share, 0.0), 1.0)
    filled = int(share * _BAR_CELLS)
    return f"{100 * share:3.0f} % |{'#' * filled}{'-' * (_BAR_CELLS - filled)}| "
