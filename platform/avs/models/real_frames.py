"""Training on real frames alone, so that padding changes nothing that is learnt.

Masks keep padding out of attention and losses, but batch norm counts every frame that it is given:
in training, padded frames are left out before the backbone and come back as zeros behind it.
Otherwise all frames are computed, because the Predictor's masks depend on a fixed shape of
computation and statistics are fixed there. Trade-off: a device waits once for the number of real
frames.

Shapes: B clips, T frames, N = B*T, R real frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avs.models.types import ModelInput

__all__ = ["frames_to_train_on", "only", "put_back"]


def frames_to_train_on(x: ModelInput, *, training: bool) -> Tensor | None:
    """Which frames are computed: bool [N], or None for all of them."""
    return x.frame_valid.flatten() if training and x.frame_valid is not None else None


def only(values: Tensor, chosen_N: Tensor | None) -> Tensor:
    """[N, ...] -> [R, ...], the chosen ones."""
    return values if chosen_N is None else values[chosen_N]


def put_back(values: Tensor, chosen_N: Tensor | None) -> Tensor:
    """Undo :func:`only`: [R, ...] -> [N, ...] with zeros in between."""
    if chosen_N is None:
        return values
    whole = torch.zeros(
        (len(chosen_N), *values.shape[1:]), dtype=values.dtype, device=values.device
    )
    whole[chosen_N] = values
    return whole
