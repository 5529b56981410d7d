"""Checkpoints written behind the training, one at a time, all of them whole before the run ends.

One thread brings each snapshot to its folder while the steps go on; the next one waits for it, and
the wait is counted. Whatever goes wrong there is raised at the next step or at the end. Storage
that fails is asked again for some minutes, which outlives what a bucket or a network usually takes.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from avs.patience import patiently
from avs.training.run import Run
from avs.training.snapshot import commit, take_snapshot
from avs.training.state import TrainingState

__all__ = ["Saver"]


class Saver:
    """Saves the checkpoints of a run on rank 0; on the other ranks it does nothing.

    ``with Saver(state, run) as saver``: at the end of the block everything is written, also when it
    ends with an error; an error of the saving is raised there unless another one is on its way.
    ``waited_s``: seconds that the training has spent on checkpoints so far.
    """

    def __init__(self, state: TrainingState, run: Run) -> None:
        self._state, self._run = state, run
        self._writes = state.worker.rank == 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="avs-save")
        self._flight: Future[None] | None = None
        self.waited_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"A checkpoint could not be saved either: {failure}")
        finally:
            self._pool.shutdown()

    def save(self, **position: Any) -> None:
        """Copy what there is now, and write it soon; ``position`` as :func:`take_snapshot` has."""
        if not self._writes:
            return
        start_s = time.monotonic()
        self.wait()
        snapshot = take_snapshot(self._state, self._run, **position)
        self._flight = self._pool.submit(
            patiently, lambda: commit(snapshot, self._state, self._run)
        )
        self.waited_s += time.monotonic() - start_s

    def check(self) -> None:
        """Raise what the saving has failed with."""
        if self._flight is not None and self._flight.done():
            self.wait()

    def wait(self) -> None:
        """Return when nothing is left to write; raises what the saving has failed with."""
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.result()
