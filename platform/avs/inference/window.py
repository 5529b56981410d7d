"""What a network's logits become.

One function, so that all masks of a video are made in the same way, whichever window or batch its
frames fall into. It needs no weights: masks may be made in another process than the one with the
network. What goes in: :mod:`avs.inference.network_input`.

Shapes: W windows of T frames, K classes (1 = binary), h x w logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)

from avs.inference.objects import VisibleObject
from avs.inference.visible import objects_at
from avs.media.pieces import MediaWindow
from avs.models.visible_objects import VisibleObjects

__all__ = ["FrameMask", "frame_mask", "window_masks"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameMask:
    """The mask uint8 [h, w] of the frame at ``time_s``; all visible objects, where asked for."""

    time_s: float
    mask: np.ndarray
    objects: list[VisibleObject] | None


def window_masks(
    logits_TKhw: torch.Tensor,
    visible: VisibleObjects | None,
    seen: MediaWindow,
    *,
    size_px: tuple[int, int],
    threshold: float,
    names: Sequence[str],
) -> list[FrameMask]:
    """The masks that a window adds to those of earlier ones, at ``size_px`` = (height, width).

    visible: of this window (:meth:`VisibleObjects.window`), with the ``names`` of its categories;
    None where nobody asked for objects. threshold: as in :func:`frame_mask`.
    """
    made = []
    for t in seen.window.new:
        mask = frame_mask(logits_TKhw[t], size_px=size_px, threshold=threshold)
        objects = None
        if visible is not None:
            objects = objects_at(visible, (t,), names=names, size_px=size_px)
        made.append(FrameMask(time_s=float(seen.frame_time_s[t]), mask=mask, objects=objects))
    return made


def frame_mask(
    logits_Khw: torch.Tensor, *, size_px: tuple[int, int], threshold: float
) -> np.ndarray:
    """The mask of a frame, uint8 of class indices at ``size_px`` = (height, width).

    threshold: probability above which a pixel counts, in 0..1 (binary models).
    """
    large = F.interpolate(logits_Khw[None], size_px, mode="bilinear", align_corners=False)[0]
    if large.shape[0] == 1:
        mask = large[0] > math.log(threshold / (1 - threshold))
    else:
        mask = large.argmax(0)
    return mask.to(torch.uint8).numpy()
