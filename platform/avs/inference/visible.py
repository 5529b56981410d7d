"""The objects of a picture, sounding or silent, out of what a model says of its queries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.inference.objects import VisibleObject
from avs.media.masks import encode_rle
from avs.models import MODELS
from avs.models.visible_objects import VisibleObjects
from avs.training.checkpoint import Checkpoint

__all__ = ["check_objects", "finds_objects", "found_objects", "objects_at"]


def found_objects(
    masks_Khw: Tensor,
    *,
    score: Tensor,
    sounding: Tensor,
    names: Sequence[str],
    size_px: tuple[int, int],
) -> list[VisibleObject]:
    """The objects of one frame, at ``size_px`` = (h, w), without those whose mask is empty.

    masks_Khw: logits [K, h, w]; score, sounding: [K], a score of 0 = not seen; names: of the K.
    """
    seen = torch.nonzero(score).flatten().tolist()
    if not seen:
        return []
    large = F.interpolate(masks_Khw[seen][None], size_px, mode="bilinear", align_corners=False)[0]
    return [
        VisibleObject(
            category=names[k],
            score=float(score[k]),
            sounding=float(sounding[k]),
            rle=encode_rle(mask.numpy()),
        )
        for k, mask in zip(seen, large > 0.0, strict=True)
        if bool(mask.any())
    ]


def objects_at(
    visible: VisibleObjects,
    place: tuple[int, ...],
    *,
    names: Sequence[str],
    size_px: tuple[int, int],
) -> list[VisibleObject]:
    """:func:`found_objects` of one frame: ``place`` = (window, frame) of a batch, or (frame,)."""
    return found_objects(
        visible.masks[place].cpu(),
        score=visible.score[place].cpu(),
        sounding=visible.sounding[place].cpu(),
        names=names,
        size_px=size_px,
    )


def finds_objects(checkpoint: Checkpoint) -> bool:
    """Whether the model finds objects one by one, silent ones too."""
    return MODELS[checkpoint.model.name].names_categories


def check_objects(checkpoint: Checkpoint) -> None:
    """Raise ConfigError where the model does not find objects one by one."""
    if not finds_objects(checkpoint):
        name = checkpoint.model.name
        raise ConfigError(
            f"objects=true, but {checkpoint.uri} is a {name} model, which finds no objects: leave "
            "it out, or give an avsc checkpoint."
        )
