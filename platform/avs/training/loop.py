"""The training loop, plain PyTorch: one process a rank, Ray nowhere in sight.

Every epoch is a pure function of the checkpoint before it and (seed, epoch, rank): clip order,
augmentation and torch's random state are derived, not carried. A run that was killed and started
again therefore equals one that was not, and no random state needs to be saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from avs.config import dump
from avs.losses import total_loss
from avs.training.augment import augment
from avs.training.card import model_card
from avs.training.checkpoint import check_alignment, load_checkpoint, save_checkpoint
from avs.training.config import Precision, TrainConfig
from avs.training.feed import Batch, epoch_order, padding_flags, prefetch, step_rows
from avs.training.optimiser import learning_rate, load_state, set_learning_rate
from avs.training.run import EpochMetrics, Run
from avs.training.state import HasTrainingState, TrainingState, Worker
from avs.training.truth import batch_truth, step_seed
from avs.training.validation import validate

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
    _resume(state, run)
    for epoch in range(len(state.history) + 1, config.train.epochs + 1):
        metrics = _epoch(state, epoch, run)
        state.history.append(metrics)
        if worker.rank == 0:
            _commit(state, run)
        worker.after_epoch(metrics)
    return state.history


def _resume(state: TrainingState, run: Run) -> None:
    found = run.last_state()
    if found is None:
        return
    uri, trainer = found
    checkpoint = load_checkpoint(uri)
    check_alignment(
        checkpoint, state.clip.audio_alignment, prepared=", ".join(state.config.data.folders)
    )
    state.system.load_state_dict(checkpoint.weights)
    load_state(state.optimizer, trainer["optimizer"])
    segmenter = state.system.segmenter
    if isinstance(segmenter, HasTrainingState):
        segmenter.load_training_state(trainer["segmenter"])
    state.history = trainer["history"]
    if state.worker.rank == 0:
        run.repair(state.history)


def _epoch(state: TrainingState, epoch: int, run: Run) -> EpochMetrics:
    config, worker = state.config, state.worker
    torch.manual_seed(int(np.random.default_rng([config.seed, epoch, worker.rank]).integers(2**31)))
    start_s = time.monotonic()
    total, stall_s = 0.0, 0.0
    parts: dict[str, float] = {}
    state.start_epoch(epoch)
    for step, (batch, waited_s) in enumerate(_batches(state, epoch)):
        stall_s += waited_s
        lr = learning_rate(
            config.train,
            step + (epoch - 1) * state.num_steps,
            steps_per_epoch=state.num_steps,
        )
        losses = _step(state, batch, lr, seed=step_seed(config.seed, epoch=epoch, step=step))
        for name, value in losses.items():
            parts[name] = parts.get(name, 0.0) + value
        total += losses["loss"]
        if worker.rank == 0:
            seen = (step + 1) * config.train.batch_size * worker.world_size
            rate = seen / (time.monotonic() - start_s)
            run.report_progress(
                f"epoch {epoch}/{config.train.epochs} step {step + 1}/{state.num_steps} "
                f"loss {total / (step + 1):.4f}, {rate:.1f} clips/s"
            )
    train_s = time.monotonic() - start_s
    _share_buffers(state.system)
    score = _validate(state)
    loss = _mean_over_ranks(total / state.num_steps, worker)
    return {
        "epoch": epoch,
        "loss": loss,
        "val_j": score[0],
        "val_f": score[1],
        "learning_rate": lr,
        "clips_per_s": state.num_steps * config.train.batch_size * worker.world_size / train_s,
        "stall": stall_s / train_s,
        "seconds": time.monotonic() - start_s,
        "parts": {k: v / state.num_steps for k, v in parts.items() if k != "loss"},
    }


def _batches(state: TrainingState, epoch: int) -> Iterator[tuple[Batch, float]]:
    """The batches of an epoch on this rank, augmented by plan, with the seconds waited for each."""
    config, worker = state.config, state.worker
    order = epoch_order(len(state.reader), seed=config.seed, epoch=epoch)
    rows = [
        step_rows(
            order,
            step=step,
            rank=worker.rank,
            world_size=worker.world_size,
            batch_size=config.train.batch_size,
        )
        for step in range(state.num_steps)
    ]
    stream = prefetch(state.reader, rows)
    for step in range(state.num_steps):
        start_s = time.monotonic()
        batch = next(stream).to(worker.device)
        waited_s = time.monotonic() - start_s
        augment(batch, loop=config.train, seed=[config.seed, epoch, step, worker.rank])
        yield batch, waited_s


def _step(state: TrainingState, batch: Batch, lr: float, *, seed: int) -> dict[str, float]:
    set_learning_rate(state.optimizer, lr)
    with autocast(state.config.train.precision, state.worker.device):
        output = state.ddp(batch.frames, batch.sound, padding_flags(batch))
    truth = batch_truth(batch, category_names=state.model_config.category_names, seed=seed)
    losses = total_loss(state.system.segmenter, output, truth, config=state.loss_config)
    state.optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    state.optimizer.step()
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not math.isfinite(values["loss"]):
        raise FloatingPointError(
            f"the loss is {values['loss']} on {batch.clip_ids}: lower train.learning_rate"
        )
    return values


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.BF16)


def _share_buffers(system: nn.Module) -> None:
    """Give all ranks rank 0's batch-norm statistics: validation and the checkpoint use those."""
    if dist.is_initialized():
        for buffer in system.buffers():
            dist.broadcast(buffer, src=0)


def _mean_over_ranks(value: float, worker: Worker) -> float:
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=worker.device)
    dist.all_reduce(tensor)
    return float(tensor) / worker.world_size


def _validate(state: TrainingState) -> tuple[float | None, float | None]:
    if state.val_reader is None:
        return None, None
    worker, loop = state.worker, state.config.train
    mine = range(worker.rank, len(state.val_reader), worker.world_size)
    rows = [mine[i : i + loop.batch_size] for i in range(0, len(mine), loop.batch_size)]
    with autocast(loop.precision, worker.device):
        return validate(
            state.system,
            (b.to(worker.device) for b in prefetch(state.val_reader, [list(r) for r in rows])),
            num_classes=state.model_config.num_classes,
            device=worker.device,
        )


def _commit(state: TrainingState, run: Run) -> None:
    metrics = state.history[-1]
    state.worker.check_lease()
    plain = dump(state.config)
    trainer = {"optimizer": state.optimizer.state_dict(), "history": state.history}
    segmenter = state.system.segmenter
    if isinstance(segmenter, HasTrainingState):
        trainer["segmenter"] = segmenter.training_state()
    save_checkpoint(
        run.epoch_uri(metrics["epoch"]),
        weights=state.system.state_dict(),
        leave_out_audio=not (
            state.config.checkpoint.self_contained or state.system.audio.trainable
        ),
        config={**plain, "model": dump(state.model_config)},
        clip=state.clip,
        metrics=metrics,
        card=model_card(
            replace(state.config, model=state.model_config),
            metrics,
            manifests=list(state.reader.manifests.values()),
            audio_trained=state.system.audio.trainable,
        ),
        trainer_state=trainer,
    )
    state.worker.check_lease()
    run.commit(state.history)
