"""What a network costs whatever runs it: parameters, and operations of one forward pass.

torch's own counter does it. It knows a product by the operator that computes it, so the three that
it does not know are led to others or added: oneDNN's product of linear layers (a fifth of a PVT
backbone's operations) becomes torch's for the count, fused attention its two products, the weighted
sums of deformable attention get a formula. Its tracker of modules is left out: it hooks every
tensor that a module gives and breaks on parameters that a module hands on under ``no_grad`` and on
the gradient inside C3N's forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from avs.models.onednn_linear import use_torch

__all__ = ["count_flops", "count_parameters"]


def count_parameters(net: nn.Module) -> int:
    """All parameters, frozen ones too; no buffers."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_flops(net: nn.Module, run: Callable[[], object]) -> int:
    """Operations of ``run``, which runs ``net``; a multiply-add counts as two.

    Counted are convolutions, matrix products, attention (every key, also masked ones) and the
    readings of deformable attention, of a gradient inside a forward too. Not counted is what
    touches each number a few times: norms, activations, resizing, products with a vector.
    The linear layers of ``net`` go without oneDNN afterwards.
    """
    use_torch(net)
    counter = FlopCounterMode(display=False, custom_mapping=_READINGS)
    counter.mod_tracker = _WholeNetwork()
    with sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return int(counter.get_total_flops())


class _WholeNetwork(ModuleTracker):
    """Tells nothing apart, so everything counts once, and hooks nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _readings(table_shape: Sequence[int], indices_shape: Sequence[int], *_: Any, **__: Any) -> int:
    """``embedding_bag``: every row that is read is multiplied by its weight and added."""
    return 2 * math.prod(indices_shape) * table_shape[1]


_READINGS = {
    torch.ops.aten._embedding_bag: _readings,
    torch.ops.aten._embedding_bag_forward_only: _readings,
}
