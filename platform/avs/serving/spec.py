"""What a decoder must know of a checkpoint to cut its windows and make masks of its logits, without
the weights; and what passes between the two.

Shapes: T frames of S x S, K classes or 1, C categories of objects, n samples of sound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avs.models.visible_objects import VisibleObjects
from avs.serving.messages import ModelInfo
from avs.training.clip_spec import ClipSpec

__all__ = ["ModelSpec", "UnknownCheckpoint", "WindowAnswer", "WindowJob"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """``info.checkpoint`` is the hash that jobs name. category_names: of the objects."""

    info: ModelInfo
    clip: ClipSpec
    input_kind: str
    category_names: tuple[str, ...]
    windows_per_forward: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowJob:
    """frames uint8 [T, S, S, 3]; sound as ``input_kind`` says; frame_valid bool [T]."""

    checkpoint: str
    frames: NDArray[np.uint8]
    sound: NDArray[Any]
    frame_valid: NDArray[np.bool_]
    objects: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowAnswer:
    """logits float32 [T, K, S, S]; visible: score, sounding [T, C] and masks [T, C, h, w] where
    objects were asked for. newest: hash of the checkpoint that later requests should name."""

    logits: NDArray[np.float32]
    visible: tuple[NDArray[np.float32], ...] | None
    newest: str

    def logits_tensor(self) -> torch.Tensor:
        """The logits as the masks are made from."""
        return _tensor(self.logits)

    def visible_objects(self) -> VisibleObjects | None:
        """The objects of this one window."""
        if self.visible is None:
            return None
        score, sounding, masks = (_tensor(array) for array in self.visible)
        return VisibleObjects(score=score, sounding=sounding, masks=masks)


@dataclass(frozen=True, slots=True)
class UnknownCheckpoint:
    """The answer of a segmenter that does not hold the checkpoint that a job names."""

    newest: str


def _tensor(array: NDArray[np.float32]) -> torch.Tensor:
    # Arrays from Ray's object store are read-only, which torch warns of.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
