"""The bare loop of ``train``: the same networks on the same clips under torchrun, without Ray.

    python -m torch.distributed.run --standalone --nproc-per-node RANKS \
        -m avs.benchmark.bare_train CONFIG.json PREPARED OUT LOADER_PROCESSES

Networks, loss, optimiser, augmentation, precision and threads are those of the platform; the loop,
DDP, the reading (a DataLoader over the rows of the shards) and the order of the clips are plain. It
has no validation, checkpoints, resume, logging or plan of the clips: what it is faster by is their
price. OUT/metrics.jsonl gets the figures of each epoch, over all its steps: from asking for the
first batch to the end of the last step, as the platform counts them.

Shapes: B clips, T frames, H x W pixels.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from avs.config import build
from avs.losses import total_loss
from avs.models import AvsSystem, build_system
from avs.prepare.manifest import read_manifest, shard_uri
from avs.schema import read_clips
from avs.training.augment import augment
from avs.training.batch import Batch, padding_flags
from avs.training.compute import prepare_networks
from avs.training.config import TrainConfig
from avs.training.optimiser import build_optimizer, set_learning_rate
from avs.training.step import autocast
from avs.training.truth import batch_truth, step_seed

__all__ = ["bare_train"]

_ARRAYS = ("frames", "log_mel", "masks", "mask_valid", "frame_valid")
_CPU = torch.device("cpu")


class _Clips(Dataset[dict[str, Any]]):
    """The rows of all train shards of a prepared folder, one after another."""

    def __init__(self, prepared: str) -> None:
        shards = read_manifest(prepared).split_shards("train")
        self._rows = [
            (shard_uri(prepared, s.name), row) for s in shards for row in range(s.num_rows)
        ]
        self._files: dict[str, pq.ParquetFile] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, row = self._rows[index]
        if path not in self._files:
            self._files[path] = pq.ParquetFile(path)
        (found,) = read_clips(self._files[path], [row], ("clip_id", "categories", *_ARRAYS))
        frames_T3HW = np.ascontiguousarray(found["frames"].transpose(0, 3, 1, 2))
        arrays = found | {"frames": frames_T3HW}
        return {
            "clip_id": found["clip_id"],
            "categories": json.dumps(found["categories"]),  # lists of any length do not collate
            **{name: torch.tensor(arrays[name]) for name in _ARRAYS},
        }


def bare_train(config: TrainConfig, prepared: str, out: Path, *, loader_processes: int) -> None:
    """Train as one rank of the default process group, or alone where there is none."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.set_num_threads(config.train.num_threads)
    torch.manual_seed(config.seed)
    system = build_system(config.model)
    prepare_networks(system, model=config.model, loop=config.train)
    optimizer = build_optimizer(system, config.train)
    set_learning_rate(optimizer, config.train.learning_rate)
    ddp: nn.Module = system
    if world_size > 1:
        # As the platform asks for it; torch's defaults copy more.
        ddp = nn.parallel.DistributedDataParallel(
            system, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    clips = _Clips(prepared)
    sampler: DistributedSampler[Any] = DistributedSampler(
        clips, num_replicas=world_size, rank=rank, drop_last=True
    )
    loader = DataLoader(
        clips,
        batch_size=config.train.batch_size,
        sampler=sampler,
        drop_last=True,
        num_workers=loader_processes,
        persistent_workers=loader_processes > 0,
    )
    for epoch in range(1, config.train.epochs + 1):
        sampler.set_epoch(epoch)
        ddp.train()
        metrics = _epoch(config, system, ddp, optimizer, loader, epoch=epoch, rank=rank)
        if rank == 0:
            rate = len(loader) * config.train.batch_size * world_size / metrics["steps_s"]
            _append(out / "metrics.jsonl", {"epoch": epoch, "clips_per_s": rate, **metrics})


def _epoch(
    config: TrainConfig,
    system: AvsSystem,
    ddp: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[dict[str, Any]],
    *,
    epoch: int,
    rank: int,
) -> dict[str, float]:
    """Seconds of the steps, the share of them that waited for clips, the loss of the last one."""
    began_s, waited_s, loss = time.monotonic(), 0.0, torch.zeros(())
    batches = iter(loader)
    for step in range(len(loader)):
        asked_s = time.monotonic()
        batch = _batch(next(batches))
        waited_s += time.monotonic() - asked_s
        augment(batch, loop=config.train, seed=[config.seed, epoch, step, rank])
        seed = step_seed(config.seed, epoch=epoch, step=step)
        truth = batch_truth(batch, category_names=config.model.category_names, seed=seed)
        with autocast(config.train.precision, _CPU):
            output = ddp(batch.frames, batch.sound, padding_flags(batch))
        loss = total_loss(system.segmenter, output, truth, config=config.loss)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    steps_s = time.monotonic() - began_s
    return {"steps_s": steps_s, "stall": waited_s / steps_s, "loss": float(loss.detach())}


def _batch(columns: dict[str, Any]) -> Batch:
    arrays: dict[str, Tensor] = {name: columns[name] for name in _ARRAYS}
    return Batch(
        clip_ids=list(columns["clip_id"]),
        categories=[tuple(json.loads(own)) for own in columns["categories"]],
        **arrays,
    )


def _append(path: Path, line: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def main(config: str, prepared: str, out: str, loader_processes: str) -> None:
    """A rank that torchrun started."""
    built: TrainConfig = build(TrainConfig, json.loads(Path(config).read_text()), path="")
    dist.init_process_group("gloo")
    bare_train(built, prepared, Path(out), loader_processes=int(loader_processes))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
