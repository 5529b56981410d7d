"""Losses of a step that goes through the networks in several parts.

A loss is a sum divided by a count over the step, and the parts' losses are summed; each part
therefore needs the count of all of them before its own backward pass. For a mean over the frames
with ground truth the counts follow from the masks alone, so a part's share of the labelled frames
is known before the first forward pass, and its count divided by the share is exactly the step's.
Means over something else (clips, objects, anchors) are weighted by the same share: an
approximation, exact where that goes with the labelled frames; and contrasted clips are those of
one part. A part without labelled frames has the share 0, which divides to an infinite count and
adds 0.

A rank that has fewer parts than another goes through the motions for the rest, because all ranks
must meet in every sum over them: as one that is not there, it counts for nothing.

Shapes: M micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["micro_batch", "own_count", "shares_of_step", "whole_step"]

_share: ContextVar[Tensor | None] = ContextVar("share", default=None)
_there: ContextVar[bool] = ContextVar("there", default=True)


def shares_of_step(num_labelled_M: Tensor) -> Tensor:
    """The share of each micro-batch in the labelled frames of a step on all ranks, [M] float32.

    num_labelled_M: frames with ground truth of this rank, one number a micro-batch; every rank must
    call it. Where no frame of the step is labelled, equal shares.
    """
    counts_M = num_labelled_M.to(torch.float32)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts_M)
    if not counts_M.any():
        counts_M = torch.ones_like(counts_M)
    return counts_M / counts_M.sum()


@contextmanager
def micro_batch(share: Tensor | None, *, there: bool = True) -> Iterator[None]:
    """Losses inside are those of a part that holds ``share`` of the step; None = the whole.

    there: False where this rank has no such part, and only joins in the sums over all ranks.
    """
    token, place = _share.set(share), _there.set(there)
    try:
        yield
    finally:
        _share.reset(token)
        _there.reset(place)


def own_count(counts: Tensor) -> Tensor:
    """What this rank adds to counts over all ranks: 0 where it has no part of its own."""
    return counts if _there.get() else torch.zeros_like(counts)


def whole_step(counts: Tensor) -> Tensor:
    """Counts of a micro-batch over all ranks -> of the step that it is a part of."""
    share = _share.get()
    return counts if share is None else counts / share.to(counts)
