"""The cases of stage ``train``: what runs beside what, and what is read of it.

``scaling``: the job and a DDP loop under torchrun with each number of workers. The rate is that of
the steps alone, first epoch left out: both sides count from asking for the first batch of an epoch
to the end of its last step, waiting for clips included; validation, checkpoints and what is logged
between two epochs are in neither. A step has ``train.batch_size`` clips on each worker whatever
their number (weak scaling).

``start``: the job and a bare TorchTrainer, one epoch over as many clips as the first shard has,
in seconds since the process was started. To its end the job has also validated, written a
checkpoint and what ``logging`` asks for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from avs.benchmark.config import BenchmarkConfig
from avs.benchmark.frame import Contender
from avs.benchmark.process import Usage
from avs.benchmark.train_figures import run_moments, steady_figures
from avs.benchmark.train_runs import Training, config_path, measured
from avs.errors import ConfigError
from avs.prepare.manifest import shard_uri
from avs.training.config import TrainConfig

__all__ = ["AVS", "CASES", "TORCHRUN", "TRAINER", "WHAT", "contender_name"]

AVS, TORCHRUN, TRAINER = "avs", "torchrun", "trainer"
WHAT = {
    TORCHRUN: "a DDP loop under torchrun with a DataLoader",
    TRAINER: "a bare TorchTrainer with a one-block read of Ray Data",
    AVS: "jobs/train.py",
}

Figures = Callable[[Path, Usage], Mapping[str, float]]


def contender_name(who: str, num_workers: int) -> str:
    """Of ``who`` with so many workers."""
    return f"{who}-{num_workers}"


def scaling(config: BenchmarkConfig, prepared: Path, jobs: Path) -> Sequence[Contender]:
    """The contenders, the job beside the loop for each number of workers.

    Raises:
        ConfigError: ``train.overrides`` make nothing that the loop can follow, or no step.
    """
    stage, contenders = config.train, list[Contender]()
    for num_workers in stage.workers:
        training = Training(
            jobs=jobs,
            prepared=prepared,
            overrides=(
                *stage.overrides,
                f"train.epochs={stage.epochs}",
                f"scale.num_workers={num_workers}",
            ),
        )
        _check_steps(training, sum(s.num_rows for s in training.manifest.split_shards("train")))
        commands: dict[str, Callable[[Path], list[str]]] = {
            TORCHRUN: partial(_torchrun, training, num_workers, stage.loader_processes),
            AVS: training.command,
        }
        for who, command in commands.items():
            name = contender_name(who, num_workers)
            contenders.append(_contender(config, name, who, training, command, _steady))
    return contenders


def start(config: BenchmarkConfig, prepared: Path, jobs: Path) -> Sequence[Contender]:
    """The two contenders. Raises as :func:`scaling` does."""
    stage = config.train
    overrides = (*stage.overrides, "train.epochs=1", f"scale.num_workers={stage.start_workers}")
    bare = Training(jobs=jobs, prepared=prepared, overrides=overrides)
    shards = bare.manifest.split_shards("train")
    share = shards[0].num_rows / sum(shard.num_rows for shard in shards)
    ours = Training(
        jobs=jobs,
        prepared=prepared,
        overrides=overrides,
        # The first step is read from the event file.
        more=(*stage.start_overrides, f"data.weights=[{share}]", "logging.tensorboard=true"),
    )
    _check_steps(bare, shards[0].num_rows)
    shard = shard_uri(str(prepared), shards[0].name)
    trainer = partial(_trainer, shard)
    return [
        _contender(config, TRAINER, TRAINER, bare, trainer, partial(_moments, read=_bare_moments)),
        _contender(config, AVS, AVS, bare, ours.command, partial(_moments, read=run_moments)),
    ]


CASES: dict[str, Callable[[BenchmarkConfig, Path, Path], Sequence[Contender]]] = {
    "scaling": scaling,
    "start": start,
}


def _contender(
    config: BenchmarkConfig,
    name: str,
    who: str,
    training: Training,
    command: Callable[[Path], list[str]],
    figures: Figures,
) -> Contender:
    runs, followed = Path(config.out).absolute() / "runs", training.config()

    def run(repeat: int) -> Mapping[str, float]:
        return measured(runs / f"{name}-{repeat}", command, figures, config=followed)

    return Contender(name=name, what=WHAT[who], run=run)


def _check_steps(training: Training, num_clips: int) -> None:
    config: TrainConfig = training.config()
    num_workers, batch_size = config.scale.num_workers, config.train.batch_size
    if num_clips < num_workers * batch_size:
        raise ConfigError(
            f"train.prepared: {num_clips} clips of {training.prepared} are less than one step of "
            f"{num_workers} workers with train.batch_size={batch_size}: give more clips (of case "
            "start, in a shard), or fewer workers."
        )


def _torchrun(training: Training, num_workers: int, loaders: int, target: Path) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = ["-m", "avs.benchmark.bare_train", str(config_path(target))]
    given = [str(training.prepared), str(target), str(loaders)]
    return [*launch, f"--nproc-per-node={num_workers}", *script, *given]


def _trainer(shard: str, target: Path) -> list[str]:
    module = [sys.executable, "-m", "avs.benchmark.bare_start"]
    return [*module, str(config_path(target)), shard, str(target)]


def _steady(target: Path, usage: Usage) -> Mapping[str, float]:
    whole = {"seconds": usage.seconds, "peak_mb": usage.peak_bytes / 1e6}
    return steady_figures(target) | whole


def _bare_moments(target: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((target / "moments.json").read_text())
    return found


def _moments(
    target: Path, usage: Usage, *, read: Callable[[Path], Mapping[str, float]]
) -> Mapping[str, float]:
    since = {f"{name}_s": when - usage.started_s for name, when in read(target).items()}
    return {**since, "total_s": usage.seconds, "peak_mb": usage.peak_bytes / 1e6}
