"""What training minimises: the pixel losses by name, or a segmenter's own objective.

A model that predicts a set of objects or contrasts clips has more to compare than pixels, so it may
bring an ``objective``; every other model is trained by the pixel losses alone. Trade-off: the pixel
losses live in :mod:`avs.models.pixel_losses`, because objectives use them and models are imported
before this module.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from avs.models.pixel_losses import (
    IGNORE_INDEX,
    DiceForm,
    LossConfig,
    LossKind,
    bce_first_frame,
    bce_masked,
    compute_loss,
    cross_entropy_masked,
    mapping_loss_binary,
    mapping_loss_semantic,
    soft_dice,
)
from avs.models.types import ModelOutput, Truth

__all__ = [
    "IGNORE_INDEX",
    "DiceForm",
    "HasObjective",
    "LossConfig",
    "LossKind",
    "bce_first_frame",
    "bce_masked",
    "compute_loss",
    "cross_entropy_masked",
    "mapping_loss_binary",
    "mapping_loss_semantic",
    "soft_dice",
    "total_loss",
]


@runtime_checkable
class HasObjective(Protocol):
    """A segmenter with a loss of its own. It may use what forward returned and what needs no
    gradient, so that every parameter is used in forward, where DDP looks."""

    def objective(
        self, output: ModelOutput, truth: Truth, *, config: LossConfig
    ) -> dict[str, Tensor]:
        """Total under "loss" (with gradient) and its unweighted parts (detached)."""


def total_loss(
    segmenter: nn.Module, output: ModelOutput, truth: Truth, *, config: LossConfig
) -> dict[str, Tensor]:
    """The segmenter's own objective where it has one, else :func:`compute_loss`.

    Total under "loss" (with gradient), parts unweighted and detached. Every rank of a distributed
    step must call it: counts are shared, so that one global batch gives one loss however it is
    spread over ranks.
    """
    if isinstance(segmenter, HasObjective):
        return segmenter.objective(output, truth, config=config)
    return compute_loss(output, truth.masks, truth.mask_valid, config=config)
