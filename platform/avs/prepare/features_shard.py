"""The features of one shard: the unit of work of stage ``features``.

A clip goes through the network by itself, so that its features depend on nothing but its sound and
the weights. Trade-off: on a GPU larger batches would be faster, but a network without backward pass
is quick there anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from avs import storage
from avs.errors import ConfigError, DataError, WeightsError
from avs.lease import check_owner
from avs.models.audio import AUDIO_NETWORKS, build_audio_network
from avs.models.audioset import NUM_AUDIOSET_CLASSES
from avs.models.system import hear
from avs.models.types import AudioNetwork
from avs.models.weights import hash_weights
from avs.prepare.features_files import FEATURES_VERSION, FeatureShard, Origin, shard_bytes
from avs.prepare.records import shard_uri
from avs.schema import read_clips

__all__ = ["FeatureJob", "FeatureWorker", "feature_shapes", "frozen_network"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureJob:
    """What every worker knows; ``folder`` gets the side-car shards of ``prepared``."""

    prepared: str
    folder: str
    network: str
    weights: str
    weights_hash: str
    num_frames: int
    device: str
    num_threads: int


class FeatureWorker:
    """Holds the network; each call computes, writes and thereby commits one shard.

    Raises:
        WeightsError: the weights here are not those that the job began with.
    """

    def __init__(self, job: FeatureJob, owner: str) -> None:
        torch.set_num_threads(job.num_threads)
        self._job, self._owner = job, owner
        self._network = frozen_network(job.network, job.weights)
        found = hash_weights(self._network.state_dict())
        if found != job.weights_hash:
            raise WeightsError(
                f"model.audio_weights={job.weights!r} has the hash {found} on a worker, but "
                f"{job.weights_hash} where the job began: give a file that all nodes share."
            )
        self._network.to(job.device)
        self._shapes = feature_shapes(job.network, num_frames=job.num_frames)

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """task: ``name`` and ``sha256`` of a shard. Returns a :class:`FeatureShard` as a dict."""
        job = self._job
        origin = Origin(
            features_version=FEATURES_VERSION,
            network=job.network,
            weights_hash=job.weights_hash,
            source_sha256=task["sha256"],
        )
        rows = list(self._rows(shard_uri(job.prepared, task["name"])))
        data = shard_bytes(rows, shapes=self._shapes, origin=origin)
        check_owner(job.prepared, self._owner)
        storage.write_bytes(storage.join(job.folder, task["name"]), data)
        return asdict(
            FeatureShard(
                name=task["name"],
                num_rows=len(rows),
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                source_sha256=task["sha256"],
            )
        )

    def _rows(self, uri: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        column = self._network.input_kind
        with storage.open_file(uri) as stream, pq.ParquetFile(stream) as file:
            for number in range(file.num_row_groups):
                (row,) = read_clips(file, [number], ("clip_id", column))
                if not row[column].size:
                    raise DataError(
                        f"{row['clip_id']} of {uri} has no {column}, which "
                        f"{self._job.network} needs: prepare it from sound files, or take a "
                        "log-mel network."
                    )
                yield row["clip_id"], self._features(row[column])

    def _features(self, sound: np.ndarray) -> dict[str, np.ndarray]:
        one_clip = torch.from_numpy(sound.copy())[None].to(self._job.device)
        heard = hear(self._network, one_clip, num_frames=self._job.num_frames)
        found = {"embedding": heard.embedding, "logits": heard.logits}
        return {name: value.cpu().numpy() for name, value in found.items() if value is not None}


def frozen_network(name: str, weights: str) -> AudioNetwork:
    """The network with its published weights.

    Raises:
        ConfigError: it is unknown, is trained with the segmenter, or would have random weights.
        WeightsError: see :func:`avs.models.build_audio_network`.
    """
    if name in AUDIO_NETWORKS and AUDIO_NETWORKS[name].build.trainable:
        frozen = ", ".join(n for n, e in AUDIO_NETWORKS.items() if not e.build.trainable)
        raise ConfigError(
            f"model.audio_network={name} is trained with the segmenter, so what it makes of a clip "
            f"changes: take a frozen one ({frozen}), or leave this stage out."
        )
    if weights == "random":
        raise ConfigError(
            "model.audio_weights=random is another network in every run: give the file of the "
            "weights that training will have."
        )
    return build_audio_network(name, weights=weights)


def feature_shapes(network: str, *, num_frames: int) -> dict[str, list[int]]:
    """The arrays of a row and their shapes: all that a segmenter takes from the network."""
    entry = AUDIO_NETWORKS[network]
    shapes = {"embedding": [num_frames, entry.build.embedding_dim]}
    if entry.gives_classes:
        shapes["logits"] = [num_frames, NUM_AUDIOSET_CLASSES]
    return shapes
