"""The training loop, plain PyTorch: one process a rank, Ray nowhere in sight.

Every step is a pure function of the state before it and (seed, epoch, step, lane): clip order,
augmentation and what stochastic layers draw are derived, not carried. A run that was killed and
started again therefore equals one that was not, and no random state needs to be saved.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor

from avs.telemetry import stage
from avs.training.audio_features import use_audio_features
from avs.training.augment import augment
from avs.training.batch import Batch
from avs.training.config import TrainConfig
from avs.training.cost import epoch_cost
from avs.training.notices import Notices
from avs.training.over_ranks import max_over_ranks
from avs.training.plan import even_share, plan_epoch
from avs.training.resume import begin
from avs.training.run import EpochMetrics, Run
from avs.training.saver import Saver
from avs.training.schedule import learning_rate
from avs.training.state import TrainingState, Worker
from avs.training.step import autocast, lay_out_gradients, take_step
from avs.training.tally import Tally
from avs.training.truth import step_seed
from avs.training.validation import validate
from avs.training.watch import Watch

__all__ = ["train"]

_LONG_VALIDATION_S = 30.0


def train(config: TrainConfig, worker: Worker) -> list[EpochMetrics]:
    """Train to ``config.train.epochs`` epochs, going on from the last committed checkpoint.

    Returns the history, one dict an epoch. Rank 0 writes; every rank must call this.

    Raises:
        DataError, ConfigError, WeightsError: before the first step.
        CheckpointError, LeaseError, StorageError: a checkpoint could not be written.
    """
    torch.set_num_threads(config.train.num_threads)
    state = TrainingState(config, worker)
    run = Run(config.out)
    begin(state, run)
    use_audio_features(state, run)
    watch = Watch(state, run, clips_per_step=state.cut.global_batch, step=_steps_done(state))
    notices = Notices(worker)
    with Saver(state, run) as saver:
        for epoch in range(len(state.history) + 1, config.train.epochs + 1):
            metrics = _epoch(state, epoch, watch, saver=saver, notices=notices)
            metrics["steps"] = watch.step
            state.history.append(metrics)
            watch.add_epoch(metrics)
            saver.save()
            if worker.commits_first:
                saver.wait()
            worker.after_epoch(metrics)
        notices.end()
    watch.end()
    return state.history


def _epoch(
    state: TrainingState, epoch: int, watch: Watch, *, saver: Saver, notices: Notices
) -> EpochMetrics:
    config, worker = state.config, state.worker
    state.start_epoch(epoch)
    tally, state.tally = state.tally or Tally(epoch=epoch), None
    saved_s = saver.waited_s
    end_s = time.monotonic()
    for batches, waited_s in _steps(state, epoch, first_step=tally.step):
        num_steps = tally.step + (epoch - 1) * state.num_steps
        lr = learning_rate(config.train, num_steps, steps_per_epoch=state.num_steps)
        seed = step_seed(config.seed, epoch=epoch, step=tally.step)
        if state.goes_on and num_steps not in _first_steps(state):
            lay_out_gradients(state, batches, seed=seed)
        state.goes_on = False
        losses = take_step(state, batches, lr, seed=seed, num_steps=num_steps)
        start_s, end_s = end_s, time.monotonic()
        watch.add_step(losses, epoch=epoch, step=tally.step, lr=lr, waited_s=waited_s)
        tally.add(losses, step_s=end_s - start_s, waited_s=waited_s)
        _save_on_the_way(state, tally, watch, saver=saver, notices=notices)
    _save_before_a_long_validation(state, tally, watch, saver=saver)
    start_s = time.monotonic()
    with stage("train", "validate"):
        score = _validate(state)
    validation_s = time.monotonic() - start_s
    means = tally.means(device=worker.device)
    last = epoch * state.num_steps - 1
    return {
        "epoch": epoch,
        "loss": means.pop("loss"),
        "val_j": score[0],
        "val_f": score[1],
        "learning_rate": learning_rate(config.train, last, steps_per_epoch=state.num_steps),
        "clips_per_s": state.num_steps * state.cut.global_batch / tally.steps_s,
        "stall": tally.stall_s / tally.steps_s,
        "checkpoint_s": saver.waited_s - saved_s,
        "seconds": tally.steps_s + validation_s,
        "validation_s": validation_s,
        **epoch_cost(worker),
        "parts": means,
    }


def _steps_done(state: TrainingState) -> int:
    """Steps of the run so far; epochs on another number of workers had another number of them."""
    done = 0
    if state.history:
        done = state.history[-1].get("steps", len(state.history) * state.num_steps)
    return done + (state.tally.step if state.tally else 0)


def _first_steps(state: TrainingState) -> tuple[int, int]:
    """The steps of a run before which the networks are made distributed, from 0."""
    return 0, state.config.train.frozen_backbone_epochs * state.num_steps


def _save_on_the_way(
    state: TrainingState, tally: Tally, watch: Watch, *, saver: Saver, notices: Notices
) -> None:
    """Save inside an epoch where that is due, or where a rank was told that it ends soon."""
    saver.check()
    told = notices.agreed()
    every = state.config.checkpoint.every_steps
    num_steps = tally.step + (tally.epoch - 1) * state.num_steps
    if told or (every is not None and num_steps % every == 0 and tally.step < state.num_steps):
        _save_step(state, tally, watch, saver=saver)
    if told:
        saver.wait()  # what comes after may not be


def _save_before_a_long_validation(
    state: TrainingState, tally: Tally, watch: Watch, *, saver: Saver
) -> None:
    """Notices are heard between steps: one that comes while validating costs no trained epoch."""
    last_s = state.history[-1].get("validation_s", 0.0) if state.history else 0.0
    (longest_s,) = max_over_ranks([last_s], state.worker.device)
    if longest_s > _LONG_VALIDATION_S:
        _save_step(state, tally, watch, saver=saver)


def _save_step(state: TrainingState, tally: Tally, watch: Watch, *, saver: Saver) -> None:
    watch.before_save()
    device = state.worker.device
    saver.save(tally=tally.state(device=device), statistics=state.statistics.state())


def _steps(
    state: TrainingState, epoch: int, *, first_step: int = 0
) -> Iterator[tuple[list[Batch], float]]:
    """The micro-batches of each step of an epoch on this rank from ``first_step`` on, augmented by
    plan, with the seconds waited for them. Nothing of the steps before is read."""
    config, worker = state.config, state.worker
    plan = plan_epoch(
        state.reader.shard_sizes,
        weights=config.data.weights,
        seed=config.seed,
        epoch=epoch,
        cut=state.cut,
    )
    count = state.cut.accumulate_steps
    rows = plan.micro_batches(worker.lanes, first_step=first_step)
    with closing(worker.stream(state.reader, rows, ahead=len(state.parts))) as stream:
        for step in range(first_step, plan.num_steps):
            batches, waited_s = [], 0.0
            for lane, part in state.parts:
                start_s = time.monotonic()
                batch = next(stream).to(worker.device)
                waited_s += time.monotonic() - start_s
                seed = [config.seed, epoch, step * count + part, lane]
                augment(batch, loop=config.train, seed=seed)
                batches.append(batch)
            yield batches, waited_s


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
    mine = even_share(len(state.val_reader), rank=worker.rank, world_size=worker.world_size)
    rows = [mine[i : i + loop.batch_size] for i in range(0, len(mine), loop.batch_size)]
    averaged = nullcontext() if average is None else average.in_place(state.system)
    with (
        averaged,
        autocast(loop.precision, worker.device),
        closing(worker.stream(state.val_reader, rows)) as stream,
    ):
        return validate(
            state.system,
            (batch.to(worker.device) for batch in stream),
            num_classes=state.model_config.num_classes,
            device=worker.device,
        )
