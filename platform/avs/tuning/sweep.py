"""The sweep on Ray Tune: random search with ASHA early stopping, one process a trial.

A trial is the plain training loop in a Tune function, not a TorchTrainer inside a trial: that
would cost about 15 s a trial and a second set of placement groups on two cores.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import yaml
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from avs import storage
from avs.config import build, dump
from avs.errors import AvsError
from avs.lease import Lease, check_owner
from avs.prepare.manifest import read_manifest
from avs.scale import ScaleConfig
from avs.training.checkpoint import copy_checkpoint, resolve_checkpoint
from avs.training.config import TrainConfig
from avs.training.distributed import check_resources
from avs.training.loop import train
from avs.training.state import Worker
from avs.tuning.config import TuneConfig
from avs.tuning.space import Dimension, apply

__all__ = ["tune_sweep"]

_HYDRA = {
    "defaults": [
        "_self_",
        {"override hydra/job_logging": "none"},
        {"override hydra/hydra_logging": "none"},
    ],
    "hydra": {"run": {"dir": "."}, "output_subdir": None},
}


def tune_sweep(config: TuneConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Search; write ``out/best.yaml``, ``out/checkpoint`` and ``out/trials.json``.

    ``best.yaml`` is a configuration for ``jobs/train.py --config-dir OUT --config-name best``.
    Returns the row of the best trial: ``trial``, ``val_j``, ``val_f``, ``epochs``, ``values``.

    Raises:
        ConfigError: a trial would not fit the cluster.
        AvsError: every trial failed; the message is the first one's.
    """
    out = storage.absolute(config.out)
    config.out = out
    config.data = config.data.map_folders(storage.absolute)
    for folder in config.data.folders:
        read_manifest(folder).split_shards("val")
    check_resources(
        ScaleConfig(
            num_workers=1,
            cpus_per_worker=config.scale.cpus_per_worker,
            gpus_per_worker=config.scale.gpus_per_worker,
        )
    )
    with Lease(out, job="tune", say=say) as lease:
        for name in ("best.yaml", "checkpoint", "trials.json", "trials", "_tune"):
            storage.remove(storage.join(out, name))
        results = _run(config, out, lease.owner, say)
        lease.check()
        rows = _rows(results)
        best = max(rows, key=lambda row: float(row["val_j"]))
        _write_best(config, out, best)
        storage.write_json(storage.join(out, "trials.json"), rows)
    say(f"tune: best {best['trial']}: J {best['val_j']:.3f} with {best['values']}")
    say(f"tune: train it with: jobs/train.py --config-dir {out} --config-name best out=DIR")
    return best


def _run(config: TuneConfig, out: str, owner: str, say: Callable[[str], None]) -> Any:
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    base, scale, search = dump(config.trial_config()), config.scale, config.search
    resources = {"CPU": scale.cpus_per_worker}
    if scale.gpus_per_worker:
        resources["GPU"] = scale.gpus_per_worker

    def trial(values: dict[str, Any]) -> None:
        _trial(base, values, out=out, owner=owner)

    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        param_space={d.key: _domain(d) for d in config.space()},
        tune_config=tune.TuneConfig(
            metric="val_j",
            mode="max",
            num_samples=search.num_trials,
            max_concurrent_trials=scale.num_workers,
            search_alg=BasicVariantGenerator(random_state=config.seed),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                grace_period=min(search.grace_epochs, config.train.epochs),
                max_t=config.train.epochs,
                reduction_factor=search.reduction_factor,
            ),
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=storage.join(out, "_tune"),
            verbose=0,
            callbacks=[_Say(say, search.num_trials)],
        ),
    )
    return tuner.fit()


def _trial(base: dict[str, Any], values: dict[str, Any], *, out: str, owner: str) -> None:
    """One trial: the training loop in its own run folder, an epoch a report."""
    run = storage.join(out, "trials", tune.get_context().get_trial_id())
    config: TrainConfig = build(TrainConfig, apply(base, {**values, "out": run}), path="")
    train(
        config,
        Worker(
            device=torch.device(config.scale.device),
            check_lease=lambda: check_owner(out, owner),
            after_epoch=lambda m: tune.report({k: m[k] for k in ("epoch", "val_j", "val_f")}),
        ),
    )


class _Say(tune.Callback):
    """Tells how trials go on, and why one failed."""

    def __init__(self, say: Callable[[str], None], num_trials: int) -> None:
        self._say, self._total, self._ended = say, num_trials, 0

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002 (the signatures are Ray's)
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        self._say(f"tune: {trial.trial_id} epoch {result['epoch']}: J {result['val_j']:.3f}")

    def on_trial_complete(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,  # noqa: ARG002
        **info: Any,  # noqa: ARG002
    ) -> None:
        self._ended += 1
        self._say(f"tune: {self._ended}/{self._total} trials ended")

    def on_trial_error(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        **info: Any,  # noqa: ARG002
    ) -> None:
        self._ended += 1
        self._say(f"tune: {trial.trial_id} failed with {trial.config}")


def _rows(results: Any) -> list[dict[str, Any]]:
    """A row a trial that reported; the best epoch counts, as for checkpoints."""
    rows = []
    for result in results:
        if result.metrics_dataframe is None or "val_j" not in result.metrics_dataframe:
            continue
        frame = result.metrics_dataframe
        best = frame.loc[frame["val_j"].idxmax()]
        rows.append(
            {
                "trial": str(result.metrics["trial_id"]),
                "val_j": float(best["val_j"]),
                "val_f": float(best["val_f"]),
                "epochs": int(frame["epoch"].max()),
                "values": dict(result.config),
                "error": str(result.error or ""),
            }
        )
    if not rows:
        first = str(results[0].error).strip().splitlines()[-1] if len(results) else "no trial ran"
        raise AvsError(f"every trial failed: {first}")
    return rows


def _write_best(config: TuneConfig, out: str, best: dict[str, Any]) -> None:
    values = apply(dump(config.train_config()), best["values"])
    text = yaml.safe_dump({**_HYDRA, **values, "out": "???"}, sort_keys=False)
    head = f"# trial {best['trial']}: validation J {best['val_j']:.4f}\n"
    source = resolve_checkpoint(storage.join(out, "trials", best["trial"]))
    copy_checkpoint(source, storage.join(out, "checkpoint"))
    storage.write_bytes(storage.join(out, "best.yaml"), (head + text).encode())


def _domain(dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return tune.choice(dimension.choice)
    if dimension.uniform is not None:
        return tune.uniform(*dimension.uniform)
    assert dimension.loguniform is not None
    return tune.loguniform(*dimension.loguniform)
