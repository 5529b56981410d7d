"""One optimiser step: its micro-batches through the networks, then one change of the weights.

The gradients of the micro-batches add up where they are, and DDP shares them once, with the last.
Each loss is divided by the counts of the whole step (:mod:`avs.models.micro_batches`), so that for
means over labelled frames a step is the same however it is cut. Stochastic layers and batch-norm
statistics see each micro-batch by itself; what stochastic layers draw is a
function of the step, the lane and the place in it, so no random state outlives a forward pass.

A rank with fewer micro-batches than another computes its last one again without counting it: the
ranks meet in every sum over them, and waiting costs as much.
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
from avs.training.batch import Batch, padding_flags, taught_flags
from avs.training.config import Precision
from avs.training.lane_buffers import NOWHERE
from avs.training.lanes import part_seed
from avs.training.optimiser import set_learning_rate
from avs.training.state import HasTrainingState, TrainingState
from avs.training.truth import batch_truth

__all__ = ["autocast", "lay_out_gradients", "take_step"]

_LOW = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def take_step(
    state: TrainingState, batches: Sequence[Batch], lr: float, *, seed: int, num_steps: int
) -> dict[str, float]:
    """Train on the micro-batches of this rank, in the order of ``state.parts``; on every rank.

    seed: of the points that losses look at and of stochastic layers, the same on every rank.
    num_steps: of the run, before this one.
    Returns the loss and its parts, this rank's part of the mean over ranks.

    Raises:
        FloatingPointError: the loss is no number; the weights are as before.
    """
    set_learning_rate(state.optimizer, lr)
    truths = [
        batch_truth(batch, category_names=state.model_config.category_names, seed=seed)
        for batch in batches
    ]
    counted = [truth.mask_valid.sum() for truth in truths]
    counted += [torch.zeros_like(counted[0])] * (state.num_parts - len(truths))
    state.optimizer.zero_grad(set_to_none=True)
    values: dict[str, float] = {}
    for place, share in enumerate(_shares(counted)):
        own, there = min(place, len(truths) - 1), place < len(truths)
        lane, part = state.parts[own]
        state.statistics.enter(lane if there else NOWHERE)
        torch.manual_seed(part_seed(seed, lane=lane, part=part))
        with _unshared(state.ddp, wanted=place < len(counted) - 1), micro_batch(share, there=there):
            losses = _forward(state, batches[own], truths[own])
            state.scaler.scale(losses["loss"] * there).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            values[name] = values.get(name, 0.0) + float(value.detach()) * there
    state.statistics.enter_first()
    if not math.isfinite(values["loss"]):
        clips = [clip_id for batch in batches for clip_id in batch.clip_ids]
        raise FloatingPointError(
            f"the loss is {values['loss']} on {clips}: lower train.learning_rate"
        )
    _change_weights(state)
    if state.average is not None:
        state.average.update(state.system, num_steps=num_steps)
    return values


def lay_out_gradients(state: TrainingState, batches: Sequence[Batch], *, seed: int) -> None:
    """Let DDP see a backward pass, of which nothing stays; on every rank, of a run that goes on.

    After its first one DDP lays the gradients out in the order in which they came. Where they lie
    decides in which order three ranks or more are summed, that is, how the sum is rounded; and a
    run that was not stopped has its first one behind it.
    """
    if not isinstance(state.ddp, nn.parallel.DistributedDataParallel):
        return
    buffers = {name: value.clone() for name, value in state.system.named_buffers()}
    truth = batch_truth(batches[0], category_names=state.model_config.category_names, seed=seed)
    _forward(state, batches[0], truth)["loss"].backward()  # type: ignore[no-untyped-call]
    state.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, value in state.system.named_buffers():
            value.copy_(buffers[name])


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Autocast to a half precision where asked for."""
    dtype = _LOW.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=precision in _LOW)


def _forward(state: TrainingState, batch: Batch, truth: Truth) -> dict[str, Tensor]:
    with autocast(state.config.train.precision, state.worker.device):
        sound = batch.heard or batch.sound
        output = state.ddp(batch.frames, sound, padding_flags(batch), taught_flags(batch))
    return total_loss(state.system.segmenter, output, truth, config=state.loss_config)


def _shares(counted: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Of each micro-batch in the step, by its labelled frames; one alone is the step."""
    if len(counted) == 1:
        return [None]
    return list(shares_of_step(torch.stack(list(counted))))


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
    if isinstance(state.system.segmenter, HasTrainingState):
        state.system.segmenter.after_step()
