"""What a frozen audio network makes of the clips, read instead of computed.

``jobs/prepare.py stage=features`` leaves it beside the prepared shards. It is used where it was
computed from these very shards with these very weights, for all folders of a training or for none:
then a run is what it would be without it, but for rounding, because augmentations leave a second of
sound as it is (a clip may get those of another one). Otherwise the network runs, and one line says
why. The weights are compared as they are when training begins, whether they came from a file, a
checkpoint that is gone on with or another run.

Shapes: T frames, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from avs import storage
from avs.errors import DataError
from avs.models.types import AudioNetwork
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
_MAX_OPEN_FILES = 128


class AudioFeatures:
    """The side-car shards of prepared folders, row by row; ``folders`` maps these to theirs.

    A :data:`avs.training.feed.ReadFeatures` that other processes may be sent.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = dict(folders)
        # Not over all runs of a process: the files may be computed again in between.
        self._open = lru_cache(maxsize=_MAX_OPEN_FILES)(_open)

    def __reduce__(self) -> tuple[Any, ...]:
        return AudioFeatures, (self._folders,)

    def __call__(self, prepared: str, name: str, row: int, clip_id: str) -> dict[str, np.ndarray]:
        """``embedding`` [T, D] and, where the network gives it, ``logits`` [T, 527], float32.

        Raises:
            DataError: the row is of another clip; the folder of features is not what it says.
        """
        folder = self._folders[prepared]
        file = self._open(storage.join(folder, name))
        (found,) = read_clips(file, [row], file.schema_arrow.names)
        if found.pop("clip_id") != clip_id:
            raise DataError(
                f"{folder}/{name} has another clip in row {row} than {prepared}, which has "
                f"{clip_id} there: remove {folder}, and compute it again if you like."
            )
        return found


def use_audio_features(state: TrainingState, run: Run) -> None:
    """Let the readers of ``state`` give features where they fit; rank 0 says what it found.

    To be called when the weights are what training begins with; frozen ones stay that.
    """
    audio, network = state.system.audio, state.config.model.audio_network
    features, note = find_features(state.reader.manifests, network=network, audio=audio)
    if features is not None:
        for reader in (state.reader, state.val_reader):
            if reader is not None:
                reader.use_features(features)
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
    name, short = (
        features_name(network, digits) for digits in (weights_hash, weights_hash[:_SHOWN_DIGITS])
    )
    folders = {}
    for folder, manifest in manifests.items():
        try:
            folders[folder] = _fitting(folder, manifest, lying[folder], name)
        except DataError as error:
            reason = str(error).rstrip(".")
            again = f"run jobs/prepare.py stage=features prepared={folder} with this network"
            return None, f"audio features in {shown} are not used: {reason}; {again}"
    where = _some(folders.values())
    note = f"audio features of {short} from {where}, the network does not run"
    return AudioFeatures(folders), note


def _fitting(prepared: str, manifest: Manifest, lying: Mapping[str, int], name: str) -> str:
    """The folder ``name`` of features if it is whole and of these rows.

    lying: bytes of each file below ``features/``. Raises DataError saying what is wrong.
    """
    others = sorted({path.partition("/")[0] for path in lying})
    if name not in others:
        found = f"those of {_some(others)}" if others else "none"
        raise DataError(f"{prepared} has {found}, the network of this run is {name}")
    folder = storage.join(prepared, FEATURES, name)
    made = read_features_manifest(folder)
    if made.prepared_sha256 != content_hash(manifest):
        raise DataError(f"the clips of {prepared} have changed since")
    for shard in made.shards:
        if lying.get(f"{name}/{shard.name}") != shard.size_bytes:
            raise DataError(f"{folder}/{shard.name} is missing or has another size")
    return folder


def _sizes_below(folder: str) -> dict[str, int]:
    """Bytes of each file; empty where there is no such folder."""
    return {info.path: info.size_bytes for info in storage.list_files(folder)}


def _open(uri: str) -> pq.ParquetFile:
    return pq.ParquetFile(uri if storage.is_local(uri) else storage.open_file(uri))


def _some(names: Iterable[str]) -> str:
    first, *more = names
    return f"{first} and {len(more)} more" if more else first
