"""The training loop on Ray Train: ranks, DDP, restarts, and what the driver shows meanwhile.

Ray starts the ranks and the process group and restarts them after a failure; the loop goes on
from its last committed epoch by itself. Clips are read by the loop, not by Ray Data: a rank's
clips must be a function of its plan, and Train holding every CPU would starve Data silently.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from avs import storage
from avs.config import build, dump
from avs.errors import AvsError, ConfigError, DataError
from avs.lease import Lease, check_owner
from avs.prepare.manifest import read_manifest
from avs.scale import ScaleConfig
from avs.training.config import TrainConfig
from avs.training.follow import Follower
from avs.training.loop import train
from avs.training.open_observers import check_logging, complete_logging, open_observers
from avs.training.run import EpochMetrics, Run
from avs.training.state import Worker

__all__ = ["train_distributed"]

_MAX_RESTARTS = 2


def train_distributed(
    config: TrainConfig, *, say: Callable[[str], None] = print
) -> list[EpochMetrics]:
    """Train on ``config.scale`` workers; started again by the same command, it resumes.

    Returns the history, one dict an epoch.

    Raises:
        ConfigError: the cluster is too small, or ``out`` holds another run.
        AvsError: what a worker raised.
    """
    config.out = storage.absolute(config.out)
    config.data = config.data.map_folders(storage.absolute)
    if config.train.init_from is not None:  # workers run in folders of their own
        config.train.init_from = storage.absolute(config.train.init_from)
    for folder in config.data.folders:
        read_manifest(folder).split_shards("train")
    check_resources(config.scale)
    check_logging(config)
    run = Run(config.out)
    with Lease(config.out, job="train", say=say) as lease:
        run.claim(config)
        finished = run.last_state()
        history = finished[1]["history"] if finished else []
        if len(history) >= config.train.epochs:
            say(f"train: {config.out} has its {config.train.epochs} epochs already")
            complete_logging(config)
            return list(history)
        if history:
            say(f"train: going on after epoch {history[-1]['epoch']}")
        with Follower(run, num_seen=len(history), say=say):
            _fit(config, lease.owner)
        final = run.last_state()
    assert final is not None
    return list(final[1]["history"])


def check_resources(scale: ScaleConfig) -> None:
    """Refuse what the cluster can never place: Ray Train would wait for it without a word.

    Raises:
        ConfigError: with the numbers asked for and there.
    """
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for key, resource, each in (
        ("cpus_per_worker", "CPU", scale.cpus_per_worker),
        ("gpus_per_worker", "GPU", scale.gpus_per_worker),
    ):
        wanted = each * scale.num_workers
        if wanted > there.get(resource, 0):
            raise ConfigError(
                f"scale.num_workers={scale.num_workers} with scale.{key}={each:g} needs "
                f"{wanted:g} {resource}s, the cluster has {there.get(resource, 0):g}: lower one."
            )


def _fit(config: TrainConfig, owner: str) -> None:
    for name in ("ray.train", "ray.train.v2"):
        logging.getLogger(name).setLevel(logging.ERROR)
    trainer = TorchTrainer(
        _worker_loop,
        train_loop_config={"config": dump(config), "owner": owner},
        scaling_config=ScalingConfig(
            num_workers=config.scale.num_workers,
            use_gpu=config.scale.gpus_per_worker > 0,
            resources_per_worker=_resources(config.scale),
        ),
        run_config=RunConfig(
            # Ray keeps its own bookkeeping here; the name is new each time because Ray would
            # otherwise resume by itself, and resuming is the loop's business.
            name=f"ray-{owner}",
            storage_path=storage.join(config.out, "_ray"),
            failure_config=FailureConfig(max_failures=_MAX_RESTARTS),
        ),
    )
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        cause = next(iter(error.worker_failures.values()))
        raise _as_avs_error(cause) from error
    finally:
        storage.remove(storage.join(config.out, "_ray"))


def _worker_loop(arguments: dict[str, Any]) -> None:
    """What runs on each rank."""
    config: TrainConfig = build(TrainConfig, arguments["config"], path="")
    owner = arguments["owner"]
    context = ray.train.get_context()
    train(
        config,
        Worker(
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=ray.train.torch.get_device(),
            wrap=_wrap,
            check_lease=lambda: check_owner(config.out, owner),
            after_epoch=_report,
            observers=[] if context.get_world_rank() else open_observers(config),
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
    inner = getattr(cause, "cause", None) or cause
    if isinstance(inner, AvsError):
        return inner
    return DataError(f"training failed on a worker: {type(inner).__name__}: {inner}")
