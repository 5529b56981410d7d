"""Training on some frames alone: on real ones, so that padding changes nothing that is learnt, and
where frames know nothing of each other on those with ground truth, because nothing else is learnt
from (Single-source training clips have it for one frame in five).

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

__all__ = [
    "frames_to_train_on",
    "in_clips",
    "only",
    "put_back",
    "taught_frames",
    "without_padding",
]


def frames_to_train_on(x: ModelInput, *, training: bool) -> Tensor | None:
    """Which frames are computed: bool [N], or None for all of them."""
    return x.frame_valid.flatten() if training and x.frame_valid is not None else None


def taught_frames(x: ModelInput, *, training: bool) -> Tensor | None:
    """The same for models that segment frames one by one: the real frames that a loss looks at, or
    all real ones where it looks at none, because a network must meet something to learn nothing."""
    real_N = frames_to_train_on(x, training=training)
    if not training or x.frame_taught is None:
        return real_N
    taught_N = x.frame_taught.flatten() if real_N is None else x.frame_taught.flatten() & real_N
    return taught_N if bool(taught_N.any()) else real_N


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


def without_padding(logits_NKHW: Tensor, x: ModelInput) -> Tensor:
    """0 for padded frames, the rest as it is."""
    if x.frame_valid is None:
        return logits_NKHW
    return logits_NKHW * x.frame_valid.reshape(-1, 1, 1, 1).to(logits_NKHW.dtype)


def in_clips(frames_NKhw: Tensor, x: ModelInput) -> Tensor:
    """Frames put back into the clips that they are of: [B, T, K, h, w]."""
    return frames_NKhw.reshape(*x.frames.shape[:2], *frames_NKhw.shape[1:])
