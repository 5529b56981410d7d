"""The struck jobs: their commands, how it is seen that they are at work, and their result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_cluster import Cluster

from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic

__all__ = [
    "CLIPS",
    "KINDS",
    "PREPARE",
    "RUN",
    "SEGMENT",
    "SMALL_CLIPS",
    "TRAIN",
    "TUNE",
    "Kind",
    "upload_videos",
]

CLIPS = SyntheticConfig(layout=Layout.MS3, num_train=16, num_val=4, num_test=4, size_px=64)
SMALL_CLIPS = ("data.image_size_px=64",)
VIDEOS, PREPARED, RUN = "in", "prepare/calm", "train/calm"  # in the bucket


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A job that writes ``out``. ``needs``: the jobs whose results it reads."""

    name: str
    arguments: Callable[[Cluster], list[str]]
    is_at_work: Callable[[Cluster, str], bool]
    result: Callable[[Cluster, str], Any]
    worker: str  # its processes, in the names of Ray's actors
    needs: tuple[str, ...] = ()

    def command(self, cluster: Cluster, out: str) -> list[str]:
        script = ["python", f"jobs/{self.name}.py"]
        return [*script, f"out={out}", *self.arguments(cluster)]


def upload_videos(cluster: Cluster, folder: Path) -> None:
    """Synthetic clips, from ``folder`` to the bucket."""
    write_synthetic(folder, CLIPS)
    for path in folder.rglob("*"):
        if path.is_file():
            cluster.files.put_file(
                str(path), cluster.uri(VIDEOS, path.relative_to(folder).as_posix())
            )


def _prepare(cluster: Cluster) -> list[str]:
    return ["data=ms3", f"data.root={cluster.uri(VIDEOS)}", "shard_clips=1", *SMALL_CLIPS]


def _has_shards(cluster: Cluster, out: str) -> bool:
    return len(cluster.files.find(f"{out}/shards")) >= 2


def _manifest(cluster: Cluster, out: str) -> Any:
    """Counts, and name and checksum of each shard, as the manifest and the bucket have them."""
    manifest = json.loads(cluster.read(f"{out}/manifest.json"))
    there = {
        name.rpartition("/")[2]: hashlib.sha256(cluster.read(f"s3://{name}")).hexdigest()
        for name in cluster.files.find(f"{out}/shards")
    }
    return manifest["counts"], manifest["shards"], there


def _train(cluster: Cluster) -> list[str]:
    return [
        *("model=tiny", f"data.prepared={cluster.uri(PREPARED)}", "train.epochs=3"),
        # A rank takes a whole node, so that two of them never share one.
        *("scale.num_workers=2", "scale.cpus_per_worker=2", "train.batch_size=2"),
        *("checkpoint.every_steps=1", "logging.report=false"),
    ]


def _has_step(cluster: Cluster, out: str) -> bool:
    return b"step" in cluster.read(f"{out}/last.json")


def _losses(cluster: Cluster, out: str) -> Any:
    lines = cluster.read(f"{out}/metrics.jsonl").splitlines()
    return [(m["epoch"], m["steps"], m["loss"], m["val_j"]) for m in map(json.loads, lines)]


def _tune(cluster: Cluster) -> list[str]:
    return [
        *(f"data.prepared={cluster.uri(PREPARED)}", "train.epochs=3", "search.num_trials=3"),
        # Who is stopped early depends on who comes first: nobody.
        *("search.grace_epochs=3", "search.max_concurrent_trials=2"),
    ]


def _has_epoch(cluster: Cluster, out: str) -> bool:
    return bool(cluster.read(f"{out}/trials/0000/metrics.jsonl"))


def _trials(cluster: Cluster, out: str) -> Any:
    told = json.loads(cluster.read(f"{out}/trials.json"))
    keys = ("trial", "values", "status", "epochs", "val_j")
    folders = {name.split("/trials/")[1][:4] for name in cluster.files.find(f"{out}/trials")}
    return [[trial[key] for key in keys] for trial in told["trials"]], sorted(folders)


def _segment(cluster: Cluster) -> list[str]:
    videos = cluster.uri(VIDEOS, "ms3_data/raw_videos")
    return [
        *(f"checkpoint={cluster.uri(RUN)}", f"input={videos}", "outputs=[rle_json,png]"),
        *("scale.num_workers=4", "masks_per_s=30"),  # on all nodes, and for some seconds
    ]


def _has_commit(cluster: Cluster, out: str) -> bool:
    return any(name.endswith("/commit.json") for name in cluster.files.find(out))


def _masks(cluster: Cluster, out: str) -> Any:
    names = cluster.files.find(out)
    found = [name for name in names if name.endswith("/commit.json")]
    rows = [json.loads(cluster.read(f"s3://{name}"))["row"] for name in found]
    masks = {
        name.partition(out.removeprefix("s3://"))[2]: hashlib.sha256(
            cluster.read(f"s3://{name}")
        ).hexdigest()
        for name in names
        if name.endswith(("masks.json", ".png"))
    }
    return sorted((row["video"], row["status"]) for row in rows), masks


PREPARE = Kind(
    name="prepare",
    arguments=_prepare,
    is_at_work=_has_shards,
    result=_manifest,
    worker="MapWorker",
)
TRAIN = Kind(
    name="train",
    arguments=_train,
    is_at_work=_has_step,
    result=_losses,
    worker="RayTrainWorker",
    needs=("prepare",),
)
TUNE = Kind(
    name="tune",
    arguments=_tune,
    is_at_work=_has_epoch,
    result=_trials,
    worker="ImplicitFunc",
    needs=("prepare",),
)
SEGMENT = Kind(
    name="segment",
    arguments=_segment,
    is_at_work=_has_commit,
    result=_masks,
    worker="Segment",
    needs=("prepare", "train"),
)
KINDS = {kind.name: kind for kind in (PREPARE, TRAIN, TUNE, SEGMENT)}
