"""The training loop on Ray Train: ranks, DDP, restarts, and what the driver shows meanwhile.

Ray starts the ranks and the process group and restarts them after a failure; the loop goes on
from its last committed epoch by itself. Each rank reads its own plan, by itself or with Ray Data
(:mod:`avs.training.ray_feed`): Train's own way of sharing a data set gives whoever asks first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
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
from avs.training.feed import prefetch
from avs.training.loop import train
from avs.training.ray_feed import reading_cpus, stream_from_ray
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
    cpus = reading_cpus(config.data.feed, config.scale)
    run = Run(config.out)
    with Lease(config.out, job="train", say=say) as lease:
        run.claim(config)
        finished = run.last_state()
        history = finished[1]["history"] if finished else []
        if len(history) >= config.train.epochs:
            say(f"train: {config.out} has its {config.train.epochs} epochs already")
            return list(history)
        if history:
            say(f"train: going on after epoch {history[-1]['epoch']}")
        with _follow(run, len(history), say):
            _fit(config, lease.owner, cpus=cpus)
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


def _fit(config: TrainConfig, owner: str, *, cpus: float) -> None:
    for name in ("ray.train", "ray.train.v2"):
        logging.getLogger(name).setLevel(logging.ERROR)
    trainer = TorchTrainer(
        _worker_loop,
        train_loop_config={"config": dump(config), "owner": owner, "cpus": cpus},
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
    world_size, cpus = context.get_world_size(), arguments["cpus"]
    from_ray = partial(stream_from_ray, cpus=cpus, world_size=world_size)
    train(
        config,
        Worker(
            rank=context.get_world_rank(),
            world_size=world_size,
            device=ray.train.torch.get_device(),
            wrap=_wrap,
            check_lease=lambda: check_owner(config.out, owner),
            after_epoch=_report,
            stream=from_ray if cpus else prefetch,
            num_lanes=config.scale.num_workers,
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


class _follow:  # noqa: N801 (used as a context manager, like a function)
    """Show on the driver what rank 0 leaves in the run folder: epochs and progress lines."""

    def __init__(self, run: Run, num_epochs: int, say: Callable[[str], None]) -> None:
        self._run, self._seen, self._say = run, num_epochs, say
        self._line = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="avs-follow", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()

    def _loop(self) -> None:
        while not self._stop.wait(1.0):
            self._show()

    def _show(self) -> None:
        for metrics in self._run.read_metrics()[self._seen :]:
            self._seen = metrics["epoch"]
            self._say(epoch_line(metrics))
        line = self._run.read_progress()
        if line and line != self._line:
            self._line = line
            self._say(f"train: {line}")


def epoch_line(metrics: EpochMetrics) -> str:
    """One line for a finished epoch."""
    j, f = metrics["val_j"], metrics["val_f"]
    score = "no validation split" if j is None else f"val J {j:.3f} F {f:.3f}"
    return (
        f"train: epoch {metrics['epoch']} done, loss {metrics['loss']:.4f}, {score}, "
        f"{metrics['clips_per_s']:.1f} clips/s, {metrics['seconds']:.1f} s"
    )
