"""The training loop, plain PyTorch: one process a rank, Ray nowhere in sight.

Every epoch is a pure function of the checkpoint before it and (seed, epoch, rank): clip order,
augmentation and torch's random state are derived, not carried. A run that was killed and started
again therefore equals one that was not, and no random state needs to be saved.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from avs.training.augment import augment
from avs.training.config import TrainConfig
from avs.training.cost import epoch_cost
from avs.training.feed import Batch, prefetch, step_rows
from avs.training.mixture import mixed_order
from avs.training.over_ranks import mean_over_ranks
from avs.training.resume import begin, commit
from avs.training.run import EpochMetrics, Run
from avs.training.schedule import learning_rate
from avs.training.state import TrainingState, Worker
from avs.training.step import autocast, take_step
from avs.training.truth import step_seed
from avs.training.validation import validate
from avs.training.watch import Watch

__all__ = ["train"]


def train(config: TrainConfig, worker: Worker) -> list[EpochMetrics]:
    """Train to ``config.train.epochs`` epochs, going on from the last committed one.

    Returns the history, one dict an epoch. Rank 0 writes; every rank must call this.

    Raises:
        DataError, ConfigError, WeightsError: before the first step.
    """
    torch.set_num_threads(config.train.num_threads)
    state = TrainingState(config, worker)
    run = Run(config.out)
    begin(state, run)
    watch = Watch(state, run, clips_per_step=_clips_per_step(state))
    for epoch in range(len(state.history) + 1, config.train.epochs + 1):
        metrics = _epoch(state, epoch, watch)
        state.history.append(metrics)
        watch.add_epoch(metrics)
        if worker.rank == 0:
            commit(state, run)
        worker.after_epoch(metrics)
    watch.end()
    return state.history


def _epoch(state: TrainingState, epoch: int, watch: Watch) -> EpochMetrics:
    config, worker = state.config, state.worker
    torch.manual_seed(int(np.random.default_rng([config.seed, epoch, worker.rank]).integers(2**31)))
    start_s = time.monotonic()
    total, stall_s = 0.0, 0.0
    parts: dict[str, float] = {}
    state.start_epoch(epoch)
    for step, (batches, waited_s) in enumerate(_steps(state, epoch)):
        stall_s += waited_s
        num_steps = step + (epoch - 1) * state.num_steps
        lr = learning_rate(config.train, num_steps, steps_per_epoch=state.num_steps)
        seed = step_seed(config.seed, epoch=epoch, step=step)
        losses = take_step(state, batches, lr, seed=seed, num_steps=num_steps)
        for name, value in losses.items():
            parts[name] = parts.get(name, 0.0) + value
        total += losses["loss"]
        watch.add_step(losses, epoch=epoch, step=step, lr=lr, waited_s=waited_s)
    train_s = time.monotonic() - start_s
    score = _validate(state)
    end_s = time.monotonic()
    return {
        "epoch": epoch,
        "loss": mean_over_ranks([total / state.num_steps], worker.device)[0],
        "val_j": score[0],
        "val_f": score[1],
        "learning_rate": lr,
        "clips_per_s": state.num_steps * _clips_per_step(state) / train_s,
        "stall": stall_s / train_s,
        "seconds": end_s - start_s,
        "validation_s": end_s - start_s - train_s,
        **epoch_cost(worker),
        "parts": {k: v / state.num_steps for k, v in parts.items() if k != "loss"},
    }


def _clips_per_step(state: TrainingState) -> int:
    """On all ranks."""
    loop = state.config.train
    return loop.batch_size * loop.accumulate_steps * state.worker.world_size


def _steps(state: TrainingState, epoch: int) -> Iterator[tuple[list[Batch], float]]:
    """The micro-batches of each step of an epoch on this rank, augmented by plan, with the seconds
    waited for them."""
    config, worker = state.config, state.worker
    count = config.train.accumulate_steps
    stream = prefetch(state.reader, _planned_rows(state, epoch))
    for step in range(state.num_steps):
        batches, waited_s = [], 0.0
        for place in range(step * count, (step + 1) * count):
            start_s = time.monotonic()
            batch = next(stream).to(worker.device)
            waited_s += time.monotonic() - start_s
            augment(batch, loop=config.train, seed=[config.seed, epoch, place, worker.rank])
            batches.append(batch)
        yield batches, waited_s


def _planned_rows(state: TrainingState, epoch: int) -> list[list[int]]:
    """The rows of this rank's micro-batches; a step's clips do not depend on how it is cut."""
    config, worker = state.config, state.worker
    each, count = config.train.batch_size, config.train.accumulate_steps
    order = mixed_order(state.folder_sizes, config.data.weights, seed=config.seed, epoch=epoch)
    planned = []
    for step in range(state.num_steps):
        rows = step_rows(
            order,
            step=step,
            rank=worker.rank,
            world_size=worker.world_size,
            batch_size=each * count,
        )
        planned += [rows[first : first + each] for first in range(0, len(rows), each)]
    return planned


def _share(tensors: Iterable[Tensor]) -> None:
    """Give all ranks rank 0's batch-norm statistics: validation and the checkpoint use those."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def _validate(state: TrainingState) -> tuple[float | None, float | None]:
    """J and F of the weights that are saved."""
    average, worker, loop = state.average, state.worker, state.config.train
    _share(state.system.buffers())
    if average is not None:
        _share(average.values[name] for name in average.buffers)
    if state.val_reader is None:
        return None, None
    mine = range(worker.rank, len(state.val_reader), worker.world_size)
    rows = [mine[i : i + loop.batch_size] for i in range(0, len(mine), loop.batch_size)]
    averaged = nullcontext() if average is None else average.in_place(state.system)
    with averaged, autocast(loop.precision, worker.device):
        return validate(
            state.system,
            (b.to(worker.device) for b in prefetch(state.val_reader, [list(r) for r in rows])),
            num_classes=state.model_config.num_classes,
            device=worker.device,
        )
