"""Ranks of a training as processes of this machine, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from avs.training import loop
from avs.training.config import TrainConfig
from avs.training.loop import train
from avs.training.notices import listen_to_sigterm, was_signalled
from avs.training.state import Worker

__all__ = ["end_at", "on_ranks", "train_on_ranks"]

Hook = Callable[[int, int], None]


def on_ranks(world_size: int, folder: Path, work: Callable[[Worker], Any]) -> list[int | None]:
    """Run ``work`` on each rank with a gloo group; their exit codes, minus the signal of a kill."""
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_one_rank, args=(rank, world_size, str(folder), work))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    return [process.exitcode for process in processes]


def train_on_ranks(
    config: TrainConfig, world_size: int, folder: Path, *, num_lanes: int, hook: Hook | None = None
) -> list[int | None]:
    """Train on ranks that take SIGTERM for a notice. hook: called with the rank and the number of
    steps of the run before each step, from 0."""

    def work(worker: Worker) -> None:
        listen_to_sigterm()
        take = loop.take_step

        def instead(*args: Any, num_steps: int, **options: Any) -> Any:
            if hook is not None:
                hook(worker.rank, num_steps)
            return take(*args, num_steps=num_steps, **options)

        loop.take_step = instead
        train(config, worker)

    def with_lanes(worker: Worker) -> None:
        work(
            Worker(
                rank=worker.rank,
                world_size=worker.world_size,
                wrap=_wrap,
                commits_first=False,
                num_lanes=num_lanes,
                told=was_signalled,
            )
        )

    return on_ranks(world_size, folder, with_lanes)


def end_at(step: int) -> Hook:
    """SIGKILL of every rank before a step of the run."""

    def hook(_: int, num_steps: int) -> None:
        if num_steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _wrap(module: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)


def _one_rank(rank: int, world_size: int, folder: str, work: Callable[[Worker], Any]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    work(Worker(rank=rank, world_size=world_size))
    dist.destroy_process_group()
