"""One optimiser step: its micro-batches through the networks, then one change of the weights.

The gradients of the micro-batches add up where they are, and DDP shares them once, with the last.
Each loss is divided by the counts of the whole step (:mod:`avs.models.micro_batches`), so that for
means over labelled frames a step is the same however it is cut. Stochastic layers, batch-norm
statistics and the teacher of AVSC see each micro-batch by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from avs.losses import total_loss
from avs.models.micro_batches import micro_batch, shares_of_step
from avs.models.types import Truth
from avs.training.config import Precision
from avs.training.feed import Batch, padding_flags
from avs.training.optimiser import set_learning_rate
from avs.training.state import TrainingState
from avs.training.truth import batch_truth

__all__ = ["autocast", "take_step"]

_LOW = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def take_step(
    state: TrainingState, batches: Sequence[Batch], lr: float, *, seed: int, num_steps: int
) -> dict[str, float]:
    """Train on the micro-batches of this rank; every rank must give as many.

    seed: of the points that losses look at. num_steps: of the run, before this one.
    Returns the loss and its parts, this rank's part of the mean over ranks.

    Raises:
        FloatingPointError: the loss is no number; the weights are as before.
    """
    set_learning_rate(state.optimizer, lr)
    truths = [
        batch_truth(batch, category_names=state.model_config.category_names, seed=seed)
        for batch in batches
    ]
    state.optimizer.zero_grad(set_to_none=True)
    values: dict[str, float] = {}
    for place, (truth, share) in enumerate(zip(truths, _shares(truths), strict=True)):
        with _unshared(state.ddp, wanted=place < len(truths) - 1), micro_batch(share):
            losses = _forward(state, batches[place], truth)
            state.scaler.scale(losses["loss"]).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            values[name] = values.get(name, 0.0) + float(value.detach())
    if not math.isfinite(values["loss"]):
        clips = [clip_id for batch in batches for clip_id in batch.clip_ids]
        raise FloatingPointError(
            f"the loss is {values['loss']} on {clips}: lower train.learning_rate"
        )
    _change_weights(state)
    if state.average is not None:
        state.average.update(state.system, num_steps=num_steps)
    return values


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Autocast to a half precision where asked for."""
    dtype = _LOW.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=precision in _LOW)


def _forward(state: TrainingState, batch: Batch, truth: Truth) -> dict[str, Tensor]:
    with autocast(state.config.train.precision, state.worker.device):
        output = state.ddp(batch.frames, batch.sound, padding_flags(batch))
    return total_loss(state.system.segmenter, output, truth, config=state.loss_config)


def _shares(truths: Sequence[Truth]) -> Sequence[Tensor | None]:
    """Of each micro-batch in the step; one alone is the step."""
    if len(truths) == 1:
        return [None]
    return list(shares_of_step(torch.stack([truth.mask_valid.sum() for truth in truths])))


def _unshared(ddp: nn.Module, *, wanted: bool) -> AbstractContextManager[None]:
    """Gradients stay on this rank for now, where there are others."""
    if wanted and isinstance(ddp, nn.parallel.DistributedDataParallel):
        unshared: AbstractContextManager[None] = ddp.no_sync()
        return unshared
    return nullcontext()


def _change_weights(state: TrainingState) -> None:
    longest = state.config.train.max_gradient_norm
    if longest is not None:
        state.scaler.unscale_(state.optimizer)
        trained = [p for group in state.optimizer.param_groups for p in group["params"]]
        state.gradient_norm = float(nn.utils.clip_grad_norm_(trained, longest))
    state.scaler.step(state.optimizer)
    state.scaler.update()
