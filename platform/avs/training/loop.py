"""The training loop, plain PyTorch: one process a rank, Ray nowhere in sight.

Every epoch is a pure function of the checkpoint before it and (seed, epoch, rank): clip order,
augmentation and torch's random state are derived, not carried. A run that was killed and started
again therefore equals one that was not, and no random state needs to be saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from avs.config import dump
from avs.datasets import dataset_spec
from avs.losses import LossConfig, LossKind, compute_loss
from avs.models import AUDIO_NETWORKS, AvsSystem, build_system
from avs.training.augment import augment
from avs.training.card import model_card
from avs.training.checkpoint import ClipSpec, load_checkpoint, save_checkpoint
from avs.training.config import LoopConfig, Precision, Schedule, TrainConfig
from avs.training.feed import (
    Batch,
    ClipReader,
    epoch_order,
    padding_flags,
    prefetch,
    step_rows,
    steps_per_epoch,
)
from avs.training.run import EpochMetrics, Run
from avs.training.validation import validate

__all__ = ["Worker", "train"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """What the launcher gives a rank.

    ``wrap`` makes the module distributed; ``check_lease`` raises when the run no longer owns its
    folder; ``after_epoch`` is called on every rank with the epoch's metrics.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    check_lease: Callable[[], None] = lambda: None
    after_epoch: Callable[[EpochMetrics], None] = lambda _: None


class _Training:
    """The state of one rank: networks, optimiser, readers, history."""

    def __init__(self, config: TrainConfig, worker: Worker) -> None:
        self.config, self.worker = config, worker
        size_px = config.train.image_size_px
        read = partial(
            ClipReader,
            config.data.prepared,
            image_size_px=size_px,
            input_kind=AUDIO_NETWORKS[config.model.audio_network].build.input_kind,
        )
        self.reader = read(split="train")
        form = self.reader.manifest.format
        splits = {s.split for s in self.reader.manifest.shards}
        self.val_reader = read(split="val") if "val" in splits else None
        semantic = len(form.class_names) > 2
        self.model_config = replace(
            config.model, num_classes=len(form.class_names) if semantic else 1
        )
        self.loss_config: LossConfig = replace(
            config.loss, kind=LossKind.SEMANTIC if semantic else LossKind.BINARY
        )
        self.clip = ClipSpec(
            num_frames=form.num_frames,
            image_size_px=size_px or form.height_px,
            class_names=form.class_names,
            audio_pad=dataset_spec(self.reader.manifest.config["data"]["name"]).pad,
        )
        torch.manual_seed(config.seed)
        self.system: AvsSystem = build_system(self.model_config).to(worker.device)
        if config.train.sync_batch_norm:
            # Not the audio network: frozen ones keep their statistics, the small one its own rule.
            convert = nn.SyncBatchNorm.convert_sync_batchnorm
            self.system.segmenter = convert(self.system.segmenter)  # type: ignore[no-untyped-call]
        self.ddp = worker.wrap(self.system)
        self.optimizer = torch.optim.AdamW(  # at a decay of 0, Adam
            _parameter_groups(self.system, config.train),
            lr=config.train.learning_rate,
            weight_decay=config.train.weight_decay,
        )
        self.history: list[EpochMetrics] = []
        self.num_steps = steps_per_epoch(
            len(self.reader), world_size=worker.world_size, batch_size=config.train.batch_size
        )


def _parameter_groups(system: AvsSystem, loop: LoopConfig) -> list[dict[str, Any]]:
    """The trained parameters, with the factor of their learning rate."""
    parts = ((system.segmenter, 1.0), (system.audio, loop.audio_learning_rate_factor))
    groups = [
        {"params": [p for p in part.parameters() if p.requires_grad], "factor": factor}
        for part, factor in parts
    ]
    return [group for group in groups if group["params"]]


def train(config: TrainConfig, worker: Worker) -> list[EpochMetrics]:
    """Train to ``config.train.epochs`` epochs, going on from the last committed one.

    Returns the history, one dict an epoch. Rank 0 writes; every rank must call this.

    Raises:
        DataError, ConfigError, WeightsError: before the first step.
    """
    torch.set_num_threads(config.train.num_threads)
    state = _Training(config, worker)
    run = Run(config.out)
    _resume(state, run)
    for epoch in range(len(state.history) + 1, config.train.epochs + 1):
        metrics = _epoch(state, epoch, run)
        state.history.append(metrics)
        if worker.rank == 0:
            _commit(state, run)
        worker.after_epoch(metrics)
    return state.history


def _resume(state: _Training, run: Run) -> None:
    found = run.last_state()
    if found is None:
        return
    uri, trainer = found
    state.system.load_state_dict(load_checkpoint(uri).weights)
    state.optimizer.load_state_dict(trainer["optimizer"])
    state.history = trainer["history"]
    if state.worker.rank == 0:
        run.repair(state.history)


def _epoch(state: _Training, epoch: int, run: Run) -> EpochMetrics:
    config, worker = state.config, state.worker
    torch.manual_seed(int(np.random.default_rng([config.seed, epoch, worker.rank]).integers(2**31)))
    start_s = time.monotonic()
    total, stall_s = 0.0, 0.0
    parts: dict[str, float] = {}
    state.ddp.train()
    for step, (batch, waited_s) in enumerate(_batches(state, epoch)):
        stall_s += waited_s
        lr = _learning_rate(config.train, step + (epoch - 1) * state.num_steps, state.num_steps)
        losses = _step(state, batch, lr)
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


def _batches(state: _Training, epoch: int) -> Iterator[tuple[Batch, float]]:
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


def _step(state: _Training, batch: Batch, lr: float) -> dict[str, float]:
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    with autocast(state.config.train.precision, state.worker.device):
        output = state.ddp(batch.frames, batch.sound, padding_flags(batch))
    losses = compute_loss(output, batch.masks, batch.mask_valid, config=state.loss_config)
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


def _learning_rate(loop: LoopConfig, step: int, steps_per_epoch: int) -> float:
    if loop.schedule is Schedule.CONSTANT:
        return loop.learning_rate
    if loop.schedule is Schedule.LINEAR:
        assert loop.final_learning_rate is not None
        assert loop.schedule_epochs is not None
        done = min(step // steps_per_epoch / loop.schedule_epochs, 1.0)
        return loop.learning_rate + done * (loop.final_learning_rate - loop.learning_rate)
    done = step / (loop.epochs * steps_per_epoch)
    return loop.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


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


def _validate(state: _Training) -> tuple[float | None, float | None]:
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


def _commit(state: _Training, run: Run) -> None:
    metrics = state.history[-1]
    state.worker.check_lease()
    plain = dump(state.config)
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
            state.config,
            metrics,
            manifest=state.reader.manifest,
            audio_trained=state.system.audio.trainable,
        ),
        trainer_state={"optimizer": state.optimizer.state_dict(), "history": state.history},
    )
    state.worker.check_lease()
    run.commit(state.history)
