"""What the weights of a checkpoint have seen: prepared folders and clips, and what they came from.

Clips and their source videos are kept as hashes in ``lineage.json`` of a checkpoint, so that an
evaluation can tell whether it tests on what was trained on, also clips of another data set that
were cut from the same video, and also what a checkpoint that was fine-tuned had seen before.
Trade-off: 34 bytes a clip instead of the prepared data, which may be gone by then. Clips that only
chose the best epoch (validation) are not among them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow.parquet as pq

from avs import storage
from avs.models.weights import name_some
from avs.prepare.manifest import Manifest, shard_uri
from avs.training.truth import source_video

__all__ = [
    "LINEAGE",
    "Lineage",
    "StartedFrom",
    "TrainedFolder",
    "clip_ids",
    "content_hash",
    "lineage_of",
    "overlap_warnings",
    "read_lineage",
    "write_lineage",
]

LINEAGE = "lineage.json"
_HASH_DIGITS = 16
_NUM_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedFolder:
    """A prepared folder: where it lay, its data set, the hash of its shards, clips trained on."""

    prepared: str
    dataset: str
    revision: int
    sha256: str
    num_clips: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StartedFrom:
    """checkpoint: whose weights a run began with. anew: tensors that it had none for."""

    checkpoint: str
    anew: tuple[str, ...]

    def __str__(self) -> str:
        anew = f"anew: {name_some(list(self.anew))}" if self.anew else "all of them"
        return f"weights of {self.checkpoint} ({anew})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """folders: all that was trained on, earlier runs' too. clips, videos: hashes of their ids."""

    folders: tuple[TrainedFolder, ...]
    clips: frozenset[str]
    videos: frozenset[str]
    started_from: StartedFrom | None = None

    def joined(self, earlier: Lineage | None) -> Lineage:
        """With what the weights had seen before."""
        if earlier is None:
            return self
        return replace(
            self,
            folders=tuple(dict.fromkeys((*earlier.folders, *self.folders))),
            clips=self.clips | earlier.clips,
            videos=self.videos | earlier.videos,
        )


def lineage_of(
    manifests: Mapping[str, Manifest], *, started_from: StartedFrom | None = None
) -> Lineage:
    """Of a run on the train splits of prepared folders; reads their clip ids."""
    ids = {folder: clip_ids(folder, own, split="train") for folder, own in manifests.items()}
    seen = [clip_id for own in ids.values() for clip_id in own]
    return Lineage(
        folders=tuple(
            TrainedFolder(
                prepared=folder,
                dataset=manifest.config["data"]["name"],
                revision=manifest.revision,
                sha256=content_hash(manifest),
                num_clips=len(ids[folder]),
            )
            for folder, manifest in manifests.items()
        ),
        clips=frozenset(map(_hash, seen)),
        videos=frozenset(_hash(source_video(clip_id)) for clip_id in seen),
        started_from=started_from,
    )


def content_hash(manifest: Manifest) -> str:
    """SHA-256 over the names, splits and checksums of a prepared folder's shards."""
    shards = sorted((shard.name, shard.split, shard.sha256) for shard in manifest.shards)
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()


def clip_ids(folder: str, manifest: Manifest, *, split: str) -> list[str]:
    """The ids of the clips of a split, without reading their arrays."""
    found: list[str] = []
    for shard in manifest.split_shards(split):
        uri = shard_uri(folder, shard.name)
        with pq.ParquetFile(uri if storage.is_local(uri) else storage.open_file(uri)) as file:
            found += file.read(columns=["clip_id"])["clip_id"].to_pylist()
    return found


def write_lineage(checkpoint: str, lineage: Lineage) -> None:
    """Write ``lineage.json`` into a checkpoint folder."""
    plain = asdict(lineage) | {"clips": sorted(lineage.clips), "videos": sorted(lineage.videos)}
    storage.write_json(storage.join(checkpoint, LINEAGE), plain)


def read_lineage(checkpoint: str) -> Lineage | None:
    """The lineage of a resolved checkpoint folder; None where it was written without one."""
    uri = storage.join(checkpoint, LINEAGE)
    if not storage.exists(uri):
        return None
    plain: dict[str, Any] = storage.read_json(uri)
    start = plain["started_from"]
    return Lineage(
        folders=tuple(TrainedFolder(**folder) for folder in plain["folders"]),
        clips=frozenset(plain["clips"]),
        videos=frozenset(plain["videos"]),
        started_from=start and StartedFrom(**start | {"anew": tuple(start["anew"])}),
    )


def overlap_warnings(lineage: Lineage | None, tested: Sequence[str]) -> list[str]:
    """One line a kind of overlap between what was trained on and the clips ``tested``."""
    if lineage is None:
        return []
    same = [clip_id for clip_id in tested if _hash(clip_id) in lineage.clips]
    again = set(same)
    related = [
        clip_id
        for clip_id in tested
        if clip_id not in again and _hash(source_video(clip_id)) in lineage.videos
    ]
    kinds = (("were trained on", same), ("are of source videos that were trained on", related))
    return [
        f"{len(found)} of {len(tested)} clips {what} ({_some(found)}): "
        "the figures promise too much for new videos"
        for what, found in kinds
        if found
    ]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:_HASH_DIGITS]


def _some(names: Iterable[str]) -> str:
    first, *more = list(names)[: _NUM_NAMED + 1]
    shown = [first, *more[: _NUM_NAMED - 1]]
    return ", ".join(shown) + (", ..." if len(more) >= _NUM_NAMED else "")
