"""The training loop on Ray Train: ranks, DDP, restarts, and what the driver shows meanwhile.

Ray starts the ranks and the process group and restarts them after a failure, with
``scale.min_workers`` on as many workers as there is room for; the loop goes on from its last
committed checkpoint by itself, and is restarted as long as it gets on in between. Each rank reads
its own plan, by itself or with Ray Data (:mod:`avs.training.ray_feed`): Train's own way of sharing
a data set gives whoever asks first.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig

from avs import storage
from avs.config import build, dump
from avs.config_changes import Change
from avs.errors import AvsError, DataError
from avs.lease import Lease, check_owner
from avs.patience import patiently
from avs.prepare.manifest import read_manifest
from avs.scale import ScaleConfig
from avs.storage_remote import StorageError
from avs.telemetry import current_run, job_run, log_line, use_run, write_summary
from avs.training.checkpoint import resolve_checkpoint
from avs.training.config import TrainConfig
from avs.training.ending import DriverNotice, until_told
from avs.training.feed import prefetch
from avs.training.follow import Follower
from avs.training.from_data import check_num_classes, loss_of
from avs.training.loop import train
from avs.training.notices import was_signalled
from avs.training.open_observers import check_logging, complete_logging, open_observers
from avs.training.ray_backend import ListeningConfig, Trainer, inner, is_mistake
from avs.training.ray_feed import stream_from_ray
from avs.training.resources import check_resources, reading_cpus
from avs.training.resume import check_lanes, told_changes, told_position
from avs.training.run import EpochMetrics, Run, summary_rows
from avs.training.state import Worker

__all__ = ["train_distributed"]

_MAX_RESTARTS = 2

# How long an elastic training waits for the workers that it asked for: Ray believes up to 20 s in
# nodes that it has lost, then waits by default a minute for them before it counts again.
_PATIENCE_ELASTIC_S = "15"


def train_distributed(
    config: TrainConfig, *, say: Callable[[str], None] = print
) -> list[EpochMetrics]:
    """Train on ``config.scale`` workers; started again by the same command, it resumes.

    Returns the history, one dict an epoch.

    Raises:
        ConfigError: the cluster is too small, or ``out`` holds another run.
        AvsError: what a worker raised.
        KeyboardInterrupt, SystemExit: told to end; the ranks have saved a step first.
    """
    config = config.map_paths(storage.absolute)
    for folder in config.data.folders:
        manifest = read_manifest(folder)
        manifest.split_shards("train")
        check_num_classes(config.model.num_classes, manifest.format.class_names)
        loss_of(config.loss, manifest.format.class_names)
    if config.train.init_from is not None:  # a misspelt one is told before workers start
        resolve_checkpoint(config.train.init_from)
    check_resources(config.scale, say=say)
    check_logging(config)
    cpus = reading_cpus(config.data.feed, config.scale)
    run, start_s = Run(config.out), time.monotonic()
    with Lease(config.out, job="train", say=say) as lease:
        history, last = run.read_metrics(), run.last_metrics()
        if len(history) > config.train.epochs:  # asked for fewer, it stays what it is
            config = replace(config, train=replace(config.train, epochs=len(history)))
        changed = run.claim(config)
        with job_run("train", out=config.out) as job:
            if len(history) >= config.train.epochs:
                say(f"train: {config.out} has its {config.train.epochs} epochs already")
                complete_logging(config)
            else:
                _tell_start(config, last, changed, say)
                with Follower(run, num_seen=len(history), say=say):
                    _fit_while_it_gets_on(config, run, lease.owner, cpus=cpus, say=say)
                history = run.read_metrics()
            seconds = time.monotonic() - start_s
            write_summary(config.out, run=job, seconds=seconds, rows=summary_rows(history), say=say)
        return history


def _tell_start(
    config: TrainConfig,
    last: EpochMetrics | None,
    changed: list[Change],
    say: Callable[[str], None],
) -> None:
    """Where it goes on, and with what."""
    if last is not None:
        check_lanes(config, last.get("num_lanes"), num_lanes=config.scale.num_workers)
        say(f"train: going on after {told_position(last)}")
        for line in told_changes(changed, config, last["epoch"]):
            say(f"train: {line}")
    if config.scale.min_workers and config.checkpoint.every_steps is None:
        say("train: a change of workers repeats up to an epoch; checkpoint.every_steps=N less")


def _fit_while_it_gets_on(
    config: TrainConfig, run: Run, owner: str, *, cpus: float, say: Callable[[str], None]
) -> None:
    """Start the ranks; again where they were lost after a new checkpoint, however often."""
    if config.scale.min_workers:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _PATIENCE_ELASTIC_S)
    for name in ("ray.train", "ray.train.v2"):
        logging.getLogger(name).setLevel(logging.ERROR)
    epochs = config.train.epochs
    for attempt in itertools.count():
        before = patiently(run.last_uri)
        try:
            fit = partial(_fit, config, _shown_name(run, owner, attempt), owner=owner, cpus=cpus)
            until_told(fit, run, owner=owner, num_epochs=epochs, say=say)
            break
        except ray.train.WorkerGroupError as error:
            causes = [inner(cause) for cause in error.worker_failures.values()]
            wrong = [cause for cause in causes if is_mistake(cause)]
            if wrong or patiently(run.last_uri) == before:
                raise _as_avs_error((wrong or causes)[0]) from error
            lost = f"workers were lost ({type(causes[0]).__name__}); starting them again"
            log_line(lost, level=logging.WARNING)
            say(f"train: {lost}")
        finally:
            with suppress(StorageError):  # Ray's own notes, which nobody reads again
                storage.remove(storage.join(config.out, "_ray"))


def _shown_name(run: Run, owner: str, attempt: int) -> str:
    """What Ray's dashboard calls a start of the training: its folder, then what sets it apart."""
    folder = re.sub(r"[^A-Za-z0-9_.-]", "-", run.out.rpartition("/")[2])
    return f"train-{folder}-{owner.rpartition('-')[2]}-{attempt}"


def _fit(config: TrainConfig, name: str, *, owner: str, cpus: float) -> None:
    scale = config.scale
    # Ray's annotation lacks the range that makes it elastic.
    num_workers: Any = (scale.min_workers or scale.num_workers, scale.num_workers)
    trainer = Trainer(
        _worker_loop,
        train_loop_config={
            "config": dump(config),
            "owner": owner,
            "cpus": cpus,
            "run": current_run(),
        },
        torch_config=ListeningConfig(),
        scaling_config=ScalingConfig(
            num_workers=num_workers if scale.min_workers else scale.num_workers,
            use_gpu=config.scale.gpus_per_worker > 0,
            resources_per_worker=_resources(config.scale),
        ),
        run_config=RunConfig(
            # Ray keeps its own bookkeeping here; the name is what its dashboard shows, and is new
            # each time because Ray would otherwise resume by itself, which is the loop's business.
            name=name,
            storage_path=storage.join(config.out, "_ray"),
            failure_config=FailureConfig(max_failures=_MAX_RESTARTS),
        ),
    )
    trainer.fit()


class _Drains:
    """Whether Ray has begun to drain more nodes of this training since it was asked last."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self) -> bool:
        info = ray.train.get_preemption_info()
        nodes = set() if info is None else set(info.preempted_node_ids)
        more, self._known = nodes - self._known, nodes
        return bool(more)


def _worker_loop(arguments: dict[str, Any]) -> None:
    """What runs on each rank."""
    use_run(arguments["run"])
    config: TrainConfig = build(TrainConfig, arguments["config"], path="")
    owner = arguments["owner"]
    check_owner(config.out, owner)  # not at the first checkpoint: is the folder a shared one?
    context = ray.train.get_context()
    rank, world_size, cpus = context.get_world_rank(), context.get_world_size(), arguments["cpus"]
    from_driver = None if rank else DriverNotice(config.out, owner)
    from_ray = partial(stream_from_ray, cpus=cpus, world_size=world_size)
    train(
        config,
        Worker(
            rank=rank,
            world_size=world_size,
            device=ray.train.torch.get_device(),
            wrap=_wrap,
            check_lease=lambda: check_owner(config.out, owner),
            after_epoch=_report,
            commits_first=False,
            stream=from_ray if cpus else prefetch,
            observers=[] if rank else open_observers(config),
            num_lanes=config.scale.num_workers,
            told=lambda: was_signalled() or (from_driver is not None and from_driver()),
            ask_cluster=_Drains(),
        ),
    )


def _wrap(module: torch.nn.Module) -> torch.nn.Module:
    # The loop shares batch-norm statistics itself, once an epoch, before it validates.
    options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    prepared: torch.nn.Module = ray.train.torch.prepare_model(
        module, parallel_strategy_kwargs=options
    )
    return prepared


def _report(metrics: EpochMetrics) -> None:
    ray.train.report({k: v for k, v in metrics.items() if isinstance(v, (int, float))})


def _resources(scale: ScaleConfig) -> dict[str, float]:
    resources = {"CPU": scale.cpus_per_worker}
    if scale.gpus_per_worker:
        resources["GPU"] = scale.gpus_per_worker
    return resources


def _as_avs_error(cause: BaseException) -> AvsError:
    """The worker's own error where it is meant for the user, else its first line with the type."""
    if isinstance(cause, AvsError):
        return cause
    return DataError(f"training failed on a worker: {type(cause).__name__}: {cause}")
