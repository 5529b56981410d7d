"""Numbers of one rank made those of all; every rank must call, with as many values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

__all__ = ["max_over_ranks", "mean_over_ranks"]


def mean_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """The mean of each value; ``device`` is the one that the process group exchanges on."""
    if not dist.is_initialized():
        return list(values)
    sums = _reduced(values, device, dist.ReduceOp.SUM)
    return [value / dist.get_world_size() for value in sums]


def max_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """The largest of each value."""
    if not dist.is_initialized():
        return list(values)
    return _reduced(values, device, dist.ReduceOp.MAX)


def _reduced(
    values: Sequence[float], device: torch.device, how: dist.ReduceOp.RedOpType
) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=how)
    return [float(value) for value in tensor]
