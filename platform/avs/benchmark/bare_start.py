"""The bare start of ``train``: a TorchTrainer as Ray's documentation writes it, and nothing else.

    python -m avs.benchmark.bare_start CONFIG.json SHARD OUT

Its workers build the same networks through ``prepare_model``, read one shard as one block of Ray
Data and train one epoch of it. Ray is started as ``jobs/train.py`` starts it, without dashboard and
with a token. OUT/moments.json gets the Unix times at which it reached what.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["bare_start"]

_COLUMNS = ("frames", "log_mel", "masks", "mask_valid")
_CPUS = 0.25  # of a worker and of a read, as Ray counts them


def bare_start(plain: dict[str, Any], shard: str, out: Path) -> None:
    """Train one epoch. plain: the fields of a :class:`avs.training.TrainConfig`."""
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)
    )  # Ray reads them when it is imported
    import ray
    import ray.data
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    # Where Train leaves it too few CPUs, Ray Data waits forever; listing takes a whole one.
    clips = ray.data.read_parquet(
        shard, columns=list(_COLUMNS), override_num_blocks=1, num_cpus=_CPUS
    )
    trainer = TorchTrainer(
        _train,
        train_loop_config={**plain, "moments": str(out / "worker.json")},
        scaling_config=ScalingConfig(
            num_workers=plain["scale"]["num_workers"],
            resources_per_worker={"CPU": _CPUS},
        ),
        run_config=RunConfig(name="bare", storage_path=str(out / "ray")),
        datasets={"train": clips},
    )
    moments = {"driver": time.time()}
    trainer.fit()
    moments |= json.loads((out / "worker.json").read_text())
    (out / "moments.json").write_text(json.dumps(moments))
    ray.shutdown()


def _train(plain: dict[str, Any]) -> None:
    """What runs on each worker."""
    import ray.train
    import torch
    from ray.train.torch import prepare_model

    from avs.config import build
    from avs.losses import LossConfig, total_loss
    from avs.models import ModelConfig, build_system

    torch.set_num_threads(plain["train"]["num_threads"])
    torch.manual_seed(plain["seed"])
    loss_config: LossConfig = build(LossConfig, plain["loss"], path="loss")
    system = build_system(build(ModelConfig, plain["model"], path="model"))
    model = prepare_model(system)
    trained = [p for p in system.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=plain["train"]["learning_rate"])
    moments, loss = {"begun": time.time()}, torch.zeros(())
    clips: Any = ray.train.get_dataset_shard("train")
    size = plain["train"]["batch_size"]
    for rows in clips.iter_batches(batch_size=size, batch_format="pyarrow", drop_last=True):
        frames, log_mel, truth = _tensors(rows)
        loss = total_loss(system.segmenter, model(frames, log_mel), truth, config=loss_config)[
            "loss"
        ]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        moments.setdefault("first_step", time.time())
    moments["epoch"] = time.time()
    if ray.train.get_context().get_world_rank() == 0:
        Path(plain["moments"]).write_text(json.dumps(moments))
    ray.train.report({"loss": float(loss)})


def _tensors(rows: Any) -> tuple[Any, Any, Any]:
    """Frames [B, T, 3, H, W], log-mel [B, T, 1, 96, 64] and what is known of a batch of rows."""
    import numpy as np
    import torch

    from avs.models.types import Truth
    from avs.schema import decode_column

    arrays = {name: torch.from_numpy(np.stack(decode_column(rows, name))) for name in _COLUMNS}
    truth = Truth(
        masks=arrays["masks"],
        mask_valid=arrays["mask_valid"],
        frame_valid=None,
        categories=None,
        videos=torch.arange(len(rows)),
        seed=0,
    )
    return arrays["frames"].permute(0, 1, 4, 2, 3), arrays["log_mel"], truth


if __name__ == "__main__":
    _config, _shard, _out = sys.argv[1:]
    Path(_out).mkdir(parents=True)
    bare_start(json.loads(Path(_config).read_text()), _shard, Path(_out))
