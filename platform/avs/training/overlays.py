"""Masks of a few validation clips, always the same, drawn beside the true ones after each epoch.

They are computed with the weights that were just validated, as validation does, by one rank alone:
nothing here may exchange anything with the others.

Shapes: T frames, K classes, H x W pixels.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from avs.inference.scoring import predicted_labels, shown_frame, spread_out
from avs.media.drawing import blend_mask, mask_palette
from avs.training.batch import padding_flags
from avs.training.observers import SeenEpoch
from avs.training.state import TrainingState
from avs.training.step import autocast

__all__ = ["Overlay", "Overlays"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlay:
    """``image`` uint8 [H, 3 W, 3]: the middle labelled frame, with its true and predicted mask."""

    clip_id: str
    image: NDArray[np.uint8]

    def png(self) -> bytes:
        """The picture as a file."""
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, format="PNG")
        return buffer.getvalue()


class Overlays:
    """Draws ``count`` clips, spread evenly over the validation split; once for all who ask."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._drawn: tuple[int, list[Overlay]] = (-1, [])

    def of(self, seen: SeenEpoch) -> list[Overlay]:
        """Empty without validation split."""
        if self._drawn[0] != seen.step:
            self._drawn = (seen.step, _draw(seen.state, self._count))
        return self._drawn[1]


def _draw(state: TrainingState, count: int) -> list[Overlay]:
    reader, average = state.val_reader, state.average
    if reader is None or not count:
        return []
    rows = sorted(spread_out(count, len(reader)))
    device, batch_size = state.worker.device, state.config.train.batch_size
    averaged = nullcontext() if average is None else average.in_place(state.system)
    state.system.eval()
    found = []
    with averaged, torch.no_grad(), autocast(state.config.train.precision, device):
        for first in range(0, len(rows), batch_size):
            batch = reader.read(rows[first : first + batch_size])
            given = batch.to(device)
            logits = state.system(
                given.frames, given.heard or given.sound, padding_flags(given)
            ).logits
            for place, clip_id in enumerate(batch.clip_ids):
                where = batch.frames[place], batch.masks[place], batch.mask_valid[place]
                labels_THW = predicted_labels(logits[place].float()).cpu()
                num_classes = state.model_config.num_classes
                image = _side_by_side(*where, labels_THW, num_classes=num_classes)
                found.append(Overlay(clip_id=clip_id, image=image))
    return found


def _side_by_side(
    frames_T3HW: Tensor,
    masks_THW: Tensor,
    valid_T: Tensor,
    labels_THW: Tensor,
    *,
    num_classes: int,
) -> NDArray[np.uint8]:
    shown = shown_frame(valid_T.numpy())
    frame = frames_T3HW[shown].permute(1, 2, 0).numpy()
    palette = mask_palette(num_classes)
    drawn = [
        blend_mask(frame, _known(mask_THW[shown].numpy(), num_classes), palette=palette)
        for mask_THW in (masks_THW, labels_THW)
    ]
    return np.concatenate([frame, *drawn], axis=1)


def _known(mask: NDArray[np.uint8], num_classes: int) -> NDArray[np.uint8]:
    """Pixels that are ignored become background: they have no colour."""
    return np.where(mask < max(num_classes, 2), mask, 0).astype(np.uint8)
