"""What the driver shows of a run that another process trains, read from the run's folder.

Trade-off: the folder is looked at once a second instead of a channel of its own, because it is
there wherever the ranks are, and after any of them was replaced.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, Self

from avs.errors import DataError
from avs.progress import StatusLine
from avs.training.run import EpochMetrics, Run

__all__ = ["Follower", "epoch_line"]

_LOOK_S = 1.0


class Follower:
    """Shows epochs and progress while it is entered, in the order in which they happened.

    Progress of an epoch that was already told is old and left out, as is what an earlier start of
    the run left.

    Args:
        num_seen: epochs that need not be told.
        say: takes the lines.
    """

    def __init__(self, run: Run, *, num_seen: int = 0, say: Callable[[str], None] = print) -> None:
        self._run, self._seen = run, num_seen
        self._status = StatusLine("train", say=say)
        self._line, self._start, self._num_told = "", 0.0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="avs-follow", daemon=True)

    def __enter__(self) -> Self:
        left = self._run.read_progress()
        if left is not None:
            self._line, self._start, self._num_told = left["line"], left["start"], len(left["told"])
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._status.close()

    def look(self) -> None:
        """Show what is new in the folder."""
        # Progress is read first: then it is older than any epoch that it does not belong to.
        found = self._run.read_progress()
        messages = [] if found is None else self._new_messages(found)
        progress = None if found is None or not self._is_new(found) else found
        for metrics in self._run.read_metrics()[self._seen :]:
            messages = self._say_messages(messages, before=metrics["epoch"])
            if progress is not None and progress["epoch"] <= metrics["epoch"]:
                self._status.show(progress["line"], share=progress["share"])
                progress = None
            self._seen = metrics["epoch"]
            self._status.say(epoch_line(metrics))
        self._say_messages(messages)
        if progress is not None:
            self._status.show(progress["line"], share=progress["share"])

    def _say_messages(
        self, messages: list[dict[str, Any]], *, before: float = math.inf
    ) -> list[dict[str, Any]]:
        """Say those of before the end of an epoch; returns the others."""
        for message in messages:
            if message["after"] < before:
                self._status.say(message["text"])
        return [message for message in messages if message["after"] >= before]

    def _new_messages(self, found: dict[str, Any]) -> list[dict[str, Any]]:
        if found["start"] != self._start:
            self._start, self._num_told = found["start"], 0
        new = found["told"][self._num_told :]
        self._num_told += len(new)
        return list(new)

    def _is_new(self, found: dict[str, Any]) -> bool:
        """Whether it is progress that was not shown, of an epoch that was not told."""
        if found["epoch"] is None or found["line"] == self._line:
            return False
        self._line = found["line"]
        return bool(found["epoch"] > self._seen)

    def _loop(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        try:
            self.look()
        except (OSError, DataError) as error:  # of a storage; the next look may do better
            self._status.show(str(error))


def epoch_line(metrics: EpochMetrics) -> str:
    """One line for a finished epoch."""
    j, f = metrics["val_j"], metrics["val_f"]
    score = "no validation split" if j is None else f"val J {j:.3f} F {f:.3f}"
    return (
        f"epoch {metrics['epoch']} done, loss {metrics['loss']:.4f}, {score}, "
        f"{metrics['clips_per_s']:.1f} clips/s, stall {100 * metrics['stall']:.0f} %, "
        f"{metrics['seconds']:.1f} s"
    )
