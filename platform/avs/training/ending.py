"""A training whose driver is told to end (SIGTERM, Ctrl-C): the ranks save their step before it.

What ends a job signals its driver: ``docker stop``, Kubernetes, ``ray job stop``, a terminal. The
ranks may be on other machines, so the driver leaves a note in the run's folder, which all of them
share; rank 0 looks for it in a thread of its own and tells the others as of any notice
(:mod:`avs.training.notices`). Trade-off: the driver waits for the checkpoint only as long as those
who signal usually do.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from avs import storage
from avs.errors import DataError
from avs.training.resume import told_position
from avs.training.run import EpochMetrics, Run

__all__ = ["DriverNotice", "until_told"]

T = TypeVar("T")

_NOTE = "_ending.json"
_LOOK_S = 0.5
_TWICE_S = 2.0  # sooner, a signal is the same one: ``timeout`` sends two, to the job and its group
# Kubernetes kills 30 s after SIGTERM; who presses Ctrl-C may press it again.
_PATIENCE_S = {signal.SIGTERM: 25.0, signal.SIGINT: 120.0}


class DriverNotice:
    """Whether the driver left a note since this was asked last; to be made on rank 0.

    owner: of the lease. A note of an earlier driver, which was killed, means nothing.
    """

    def __init__(self, out: str, owner: str) -> None:
        self._uri, self._owner = storage.join(out, _NOTE), owner
        self._found = threading.Event()
        threading.Thread(target=self._look, name="avs-ending", daemon=True).start()

    def __call__(self) -> bool:
        came = self._found.is_set()
        if came:
            self._found.clear()
        return came

    def _look(self) -> None:
        while True:
            with suppress(OSError, DataError):  # the next look may do better
                if storage.exists(self._uri) and storage.read_json(self._uri) == self._owner:
                    self._found.set()
                    return
            time.sleep(_LOOK_S)


def until_told(
    call: Callable[[], T], run: Run, *, owner: str, num_epochs: int, say: Callable[[str], None]
) -> T:
    """``call()``, which trains ``num_epochs``; told to end, the ranks save first. Told again some
    seconds later, it ends at once.

    In another thread than the main one, which gets no signals, only ``call()``.

    Raises:
        KeyboardInterrupt: after SIGINT. SystemExit: after SIGTERM, with 128 + its number.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    signals: list[tuple[int, float]] = []

    def take(number: int, _: object) -> None:
        signals.append((number, time.monotonic()))
        if signals[-1][1] - signals[0][1] > _TWICE_S:
            _end(number)

    result: Future[T] = Future()
    at_start = _progress(run)
    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Not the main thread: there Ray's own handler of SIGINT would take the place of this one.
        threading.Thread(target=_into, args=(result, call), daemon=True).start()
        while not result.done() and not signals:
            with suppress(TimeoutError):
                result.exception(_LOOK_S)
        if not result.done():
            number = signals[0][0]
            if _progress(run) == at_start:
                say("train: told to end before the first step")
            elif len(run.read_metrics()) < num_epochs:
                patience_s = _PATIENCE_S[signal.Signals(number)]
                _save_first(run, result, owner=owner, say=say, patience_s=patience_s)
            _end(number)
        return result.result()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _into(result: Future[T], call: Callable[[], T]) -> None:
    try:
        result.set_result(call())
    except BaseException as error:
        result.set_exception(error)


def _end(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _save_first(
    run: Run,
    result: Future[Any],
    *,
    owner: str,
    say: Callable[[str], None],
    patience_s: float,
) -> None:
    say("train: told to end; saving a step first (told again: ends at once)")
    note = storage.join(run.out, _NOTE)
    with suppress(OSError, DataError):  # storage that is away saves nothing
        before = run.last_uri()
        storage.write_json(note, owner)
        try:
            saved = _wait_for_a_step(run, result, before, end_s=time.monotonic() + patience_s)
        except (KeyboardInterrupt, SystemExit):
            say("train: told again; ending without the step")
            raise
        finally:
            storage.remove(note)
        if saved is None:
            say(f"train: no step was saved within {patience_s:.0f} s; ending without")
        else:
            say(f"train: saved {told_position(saved)}; the same command goes on from there")


def _wait_for_a_step(
    run: Run, result: Future[Any], before: str | None, *, end_s: float
) -> EpochMetrics | None:
    """Metrics of a checkpoint after ``before``: that of the step where it is seen, else of an epoch
    (a short one may end before the note is read, or its checkpoint follow that of the step)."""
    seen, saved = {before}, None
    while len(seen) < 4 and not result.done() and time.monotonic() < end_s:
        uri = run.last_uri()
        if uri not in seen:
            seen.add(uri)
            saved = run.last_metrics()
            if saved is not None and "step" in saved:
                break
        time.sleep(0.05)
    return saved


def _progress(run: Run) -> dict[str, Any] | None:
    with suppress(OSError, DataError):
        return run.read_progress()
    return None
