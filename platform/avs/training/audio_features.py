"""What a frozen audio network makes of the clips, read instead of computed.

``jobs/prepare.py stage=features`` leaves it beside the prepared shards. It is used where it was
computed from these very shards with these very weights, for all folders of a training or for none:
then a run is what it would be without it, but for rounding, because no augmentation touches the
sound. Otherwise the network runs, and one line says why. The weights are compared as they are when
training begins, whether they came from a file, a checkpoint that is gone on with or another run.

Shapes: B clips, T frames, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from avs import storage
from avs.errors import DataError
from avs.models.types import AudioNetwork, AudioOutput
from avs.models.weights import hash_weights
from avs.prepare.features_files import (
    FEATURES,
    features_name,
    read_features_manifest,
)
from avs.prepare.manifest import Manifest
from avs.schema import read_clips
from avs.training.lineage import content_hash
from avs.training.run import Run
from avs.training.state import TrainingState

__all__ = ["AudioFeatures", "find_features", "use_audio_features"]

_SHOWN_DIGITS = 8


class AudioFeatures:
    """The side-car shards of prepared folders, row by row; ``folders`` maps these to theirs.

    One call is one :class:`AudioOutput` of B * T examples, float32, in the order of the places.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = dict(folders)
        self._files: dict[tuple[str, str], pq.ParquetFile] = {}

    def __call__(
        self, places: Sequence[tuple[str, str, int]], clip_ids: Sequence[str]
    ) -> AudioOutput:
        """places: prepared folder, name of the shard and row of each clip.

        Raises:
            DataError: a row is of another clip; the folder of features is not what it says.
        """
        rows = []
        for (prepared, name, number), clip_id in zip(places, clip_ids, strict=True):
            file = self._file(prepared, name)
            (row,) = read_clips(file, [number], file.schema_arrow.names)
            if row["clip_id"] != clip_id:
                folder = self._folders[prepared]
                raise DataError(
                    f"{folder}/{name} has {row['clip_id']} in row {number}, where {prepared} has "
                    f"{clip_id}: remove {folder}, and compute it again if you like."
                )
            rows.append(row)
        return AudioOutput(
            embedding=_joined([row["embedding"] for row in rows]),
            logits=_joined([row["logits"] for row in rows]) if "logits" in rows[0] else None,
        )

    def _file(self, prepared: str, name: str) -> pq.ParquetFile:
        if (prepared, name) not in self._files:
            uri = storage.join(self._folders[prepared], name)
            self._files[prepared, name] = pq.ParquetFile(
                uri if storage.is_local(uri) else storage.open_file(uri)
            )
        return self._files[prepared, name]


def use_audio_features(state: TrainingState, run: Run) -> None:
    """Let the readers of ``state`` give features where they fit; rank 0 says what it found.

    To be called when the weights are what training begins with; frozen ones stay that.
    """
    audio, network = state.system.audio, state.config.model.audio_network
    features, note = find_features(state.reader.manifests, network=network, audio=audio)
    if features is not None:
        for reader in (state.reader, state.val_reader):
            if reader is not None:
                reader.use_heard(features)
    if note and state.worker.rank == 0:
        run.report_progress(note, every_s=0.0)


def find_features(
    manifests: Mapping[str, Manifest], *, network: str, audio: AudioNetwork
) -> tuple[AudioFeatures | None, str]:
    """The features of these prepared folders that fit, or None; and the line that says so.

    manifests: by folder. network: what configurations call ``audio``. The line is empty where no
    folder has any features.
    """
    lying = {folder: _sizes_below(storage.join(folder, FEATURES)) for folder in manifests}
    if not any(lying.values()):
        return None, ""
    shown = _some(storage.join(folder, FEATURES) for folder, files in lying.items() if files)
    if audio.trainable:
        return None, f"audio features in {shown} are not used: {network} is trained here"
    weights_hash = hash_weights(audio.state_dict())
    name = features_name(network, weights_hash)
    try:
        folders = {
            folder: _fitting(folder, manifest, lying[folder], name)
            for folder, manifest in manifests.items()
        }
    except DataError as error:
        return None, f"audio features in {shown} are not used: {error}"
    short = features_name(network, weights_hash[:_SHOWN_DIGITS])
    where = _some(folders.values())
    return AudioFeatures(
        folders
    ), f"audio features of {short} from {where}, the network does not run"


def _fitting(prepared: str, manifest: Manifest, lying: Mapping[str, int], name: str) -> str:
    """The folder ``name`` of features if it is whole and of these rows.

    lying: bytes of each file below ``features/``. Raises DataError saying what is wrong.
    """
    folder = storage.join(prepared, FEATURES, name)
    again = f"run jobs/prepare.py stage=features prepared={prepared}"
    others = sorted({path.partition("/")[0] for path in lying})
    if name not in others:
        found = f"of {_some(others)}" if others else "none"
        raise DataError(f"{prepared} has {found}, this run has {name}; {again}")
    try:
        made = read_features_manifest(folder)
    except DataError as error:
        raise DataError(f"not finished, or damaged: {error} {again}") from error
    if made.prepared_sha256 != content_hash(manifest):
        raise DataError(f"the clips of {prepared} have changed since; {again}")
    for shard in made.shards:
        if lying.get(f"{name}/{shard.name}") != shard.size_bytes:
            raise DataError(f"{folder}/{shard.name} is missing or has another size; {again}")
    return folder


def _sizes_below(folder: str) -> dict[str, int]:
    """Bytes of each file; empty where there is no such folder."""
    return {info.path: info.size_bytes for info in storage.list_files(folder)}


def _joined(arrays: Sequence[np.ndarray]) -> Tensor:
    """[T, D] of each clip -> [B * T, D]."""
    return torch.from_numpy(np.concatenate(arrays))


def _some(names: Iterable[str]) -> str:
    first, *more = names
    return f"{first} and {len(more)} more" if more else first
