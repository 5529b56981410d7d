"""The training loop on Ray Train: ranks, DDP, restarts, and what the driver shows meanwhile.

Ray starts the ranks and the process group and restarts them after a failure, with
``scale.min_workers`` on as many workers as there is room for; the loop goes on from its last
committed checkpoint by itself, and is restarted as long as it gets on in between. Clips are read by
the loop, not by Ray Data: a rank's clips must be a function of its plan, and Train holding every
CPU would starve Data silently.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from avs import storage
from avs.config import build, dump
from avs.errors import AvsError, ConfigError, DataError
from avs.lease import Lease, check_owner
from avs.prepare.manifest import read_manifest
from avs.scale import ScaleConfig
from avs.training.config import TrainConfig
from avs.training.loop import train
from avs.training.notices import listen_to_sigterm, was_signalled
from avs.training.resume import check_lanes, told_position
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
    check_resources(_least(config.scale))
    run = Run(config.out)
    with Lease(config.out, job="train", say=say) as lease:
        run.claim(config)
        finished = run.last_state()
        history = finished[1]["history"] if finished else []
        if len(history) >= config.train.epochs:
            say(f"train: {config.out} has its {config.train.epochs} epochs already")
            return list(history)
        if finished:
            check_lanes(config, finished[1], num_lanes=config.scale.num_workers)
            say(f"train: going on after {told_position(finished[1])}")
        if config.scale.min_workers and config.checkpoint.every_steps is None:
            say("train: a change of workers repeats up to an epoch; checkpoint.every_steps=N less")
        with _follow(run, len(history), say):
            _fit_while_it_gets_on(config, run, lease.owner, say=say)
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


def _least(scale: ScaleConfig) -> ScaleConfig:
    """What a training cannot do without."""
    return replace(scale, num_workers=scale.min_workers or scale.num_workers)


def _fit_while_it_gets_on(
    config: TrainConfig, run: Run, owner: str, *, say: Callable[[str], None]
) -> None:
    """Start the ranks; again where they were lost after a new checkpoint, however often."""
    for name in ("ray.train", "ray.train.v2"):
        logging.getLogger(name).setLevel(logging.ERROR)
    attempt = 0
    while True:
        before = run.last_uri()
        try:
            return _fit(config, f"ray-{owner}-{attempt}", owner=owner)
        except ray.train.WorkerGroupError as error:
            causes = [_inner(cause) for cause in error.worker_failures.values()]
            ours = [cause for cause in causes if isinstance(cause, AvsError)]
            later = all(isinstance(cause, OSError) for cause in ours)  # storage that may come back
            if run.last_uri() == before or not later:
                raise _as_avs_error((ours or causes)[0]) from error
            say(f"train: workers were lost ({type(causes[0]).__name__}); starting them again")
            attempt += 1
        finally:
            storage.remove(storage.join(config.out, "_ray"))


def _fit(config: TrainConfig, name: str, *, owner: str) -> None:
    scale = config.scale
    least = scale.min_workers
    trainer = TorchTrainer(
        _worker_loop,
        train_loop_config={"config": dump(config), "owner": owner},
        torch_config=_ListeningConfig(),
        scaling_config=ScalingConfig(
            # Ray's hints lack the pair that makes it elastic.
            num_workers=scale.num_workers if least is None else (least, scale.num_workers),  # type: ignore[arg-type]
            use_gpu=config.scale.gpus_per_worker > 0,
            resources_per_worker=_resources(config.scale),
        ),
        run_config=RunConfig(
            # Ray keeps its own bookkeeping here; the name is new each time because Ray would
            # otherwise resume by itself, and resuming is the loop's business.
            name=name,
            storage_path=storage.join(config.out, "_ray"),
            failure_config=FailureConfig(max_failures=_MAX_RESTARTS),
        ),
    )
    trainer.fit()


class _ListeningConfig(TorchConfig):
    """Torch's process group, on workers that take SIGTERM for a notice.

    Python sets signal handlers in the main thread only, where Train runs the backend's start; the
    loop has a thread of its own.
    """

    @property
    def backend_cls(self) -> Any:
        backend: Any = super().backend_cls

        class Listening(backend):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                super().on_start(worker_group, backend_config)
                worker_group.execute(listen_to_sigterm)

        return Listening


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
            commits_first=False,
            num_lanes=config.scale.num_workers,
            told=was_signalled,
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


def _inner(cause: BaseException) -> BaseException:
    """What a worker raised, without Ray's wrapping."""
    inner: BaseException = getattr(cause, "cause", None) or cause
    return inner


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
