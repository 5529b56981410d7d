"""What a model that finds objects says of each frame beside the sounding mask: all that it sees.

Of each category the surest query, as in the correlation, whether it sounds or not. Categories are
the only identity that objects have here: two dogs are one object, and nothing follows an object
from frame to frame but its category.

Shapes: B clips, T frames, N = B*T, K categories, h x w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from avs.models.avsc_correlation import kept_queries
from avs.models.types import ObjectSets

__all__ = ["VisibleObjects", "visible_objects"]


@dataclass(kw_only=True, slots=True)
class VisibleObjects:
    """score: how sure the model is to see each category, 0 = not seen; sounding: how much it
    sounds; [B, T, K] each, 0..1. masks: logits [B, T, K, h, w], of use where the score is not 0."""

    score: Tensor
    sounding: Tensor
    masks: Tensor

    def window(self, slot: int) -> Self:
        """Those of one clip of the batch: [T, K] and [T, K, h, w]."""
        return type(self)(
            score=self.score[slot], sounding=self.sounding[slot], masks=self.masks[slot]
        )


def visible_objects(objects: ObjectSets) -> VisibleObjects:
    """Of a forward pass without training: all B * T frames."""
    last, batch = objects.predictions[-1], objects.sound_logits.shape[:2]
    assert last.class_logits is not None, "objects have classes"
    assert last.masks is not None, "objects have masks"
    query_NK, sure_NK = kept_queries(last.class_logits)
    frames_N1 = torch.arange(len(query_NK), device=query_NK.device).unsqueeze(1)
    masks_NKhw = last.masks[frames_N1, query_NK].float()
    return VisibleObjects(
        score=sure_NK.reshape(*batch, -1),
        sounding=objects.sound_logits.sigmoid(),
        masks=masks_NKhw.reshape(*batch, *masks_NKhw.shape[1:]),
    )
