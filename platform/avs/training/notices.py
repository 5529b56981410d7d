"""A rank that is told to end soon: all ranks save a checkpoint before the machine goes.

A notice reaches one rank, by a signal or through the cluster, but a checkpoint needs all of them at
the same step. So the ranks share two bits after every step, without waiting: the sum begun after
one step is read after the next, by when it has long ended. Trade-off: a notice is acted upon one
step later.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from avs.training.state import Worker

__all__ = ["ASK_EVERY_S", "Notices", "listen_to_sigterm", "was_signalled"]

_signalled = threading.Event()
ASK_EVERY_S = 5.0  # asking the cluster is a round trip in which all ranks wait for each other


def listen_to_sigterm() -> None:
    """Take SIGTERM for a notice in this process from now on; to be called in its main thread."""
    signal.signal(signal.SIGTERM, lambda *_: _signalled.set())


def was_signalled() -> bool:
    """Whether SIGTERM came since this was asked last."""
    came = _signalled.is_set()
    if came:
        _signalled.clear()
    return came


@dataclass(slots=True)
class _Shared:
    """bits: whether any rank was told, whether it is time to ask the cluster."""

    bits_2: Tensor
    work: dist.Work | None

    def read(self) -> tuple[bool, bool]:
        if self.work is not None:
            self.work.wait()
        told, due = self.bits_2.tolist()
        return bool(told), bool(due)


class Notices:
    """What the ranks know together of an end that is near."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._pending: _Shared | None = None
        self._asked_s = time.monotonic()

    def agreed(self) -> bool:
        """Whether any rank was told: the same on every rank. Every rank must ask at every step."""
        if not dist.is_initialized():
            return self._worker.told() or (self._is_due() and self._ask())
        before, self._pending = self._pending, self._share()
        told, due = (False, False) if before is None else before.read()
        return (due and self._ask()) or told

    def end(self) -> None:
        """Read what is still on its way; on every rank."""
        if self._pending is not None:
            self._pending.read()

    def _share(self) -> _Shared:
        due = self._worker.rank == 0 and self._is_due()  # one clock, or they would ask twice
        if due:
            self._asked_s = time.monotonic()
        bits_2 = torch.tensor([float(self._worker.told()), float(due)], device=self._worker.device)
        work = dist.all_reduce(bits_2, op=dist.ReduceOp.MAX, async_op=True)
        return _Shared(bits_2, work)

    def _is_due(self) -> bool:
        return time.monotonic() - self._asked_s >= ASK_EVERY_S

    def _ask(self) -> bool:
        self._asked_s = time.monotonic()
        return self._worker.ask_cluster()
