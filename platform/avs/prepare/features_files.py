"""Side-car shards of features: what a frozen audio network makes of the sound of prepared clips.

They lie below the prepared folder as ``features/<network>-<hash of weights>/<name of the shard>``,
one row a clip in the order of the shard. Each file says what it was computed from, so that it is
its own commit record and a rerun knows what is missing; the manifest, written last, says the same
of the whole folder. The prepared rows and their manifest never change.

Shapes: T frames, D embedding width.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avs import storage
from avs.errors import DataError

__all__ = [
    "DTYPE",
    "FEATURES",
    "FEATURES_VERSION",
    "FeatureShard",
    "FeaturesManifest",
    "Origin",
    "features_manifest_uri",
    "features_name",
    "read_features_manifest",
    "read_shard_origin",
    "shard_bytes",
    "write_features_manifest",
]

FEATURES = "features"
FEATURES_VERSION = 1
DTYPE = "float32"  # of every array: what the networks compute in, whatever training computes in
_MANIFEST = "manifest.json"
_ORIGIN = b"avs.features"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a side-car shard was computed from: network, weights, checksum of the clip shard."""

    features_version: int
    network: str
    weights_hash: str
    source_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureShard:
    """One side-car file, named as its shard: rows, bytes, checksums of itself and of the shard."""

    name: str
    num_rows: int
    size_bytes: int
    sha256: str
    source_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesManifest:
    """A finished folder of features.

    weights_hash: :func:`avs.models.weights.hash_weights` of the network, as checkpoints that leave
    their audio network out name it. prepared_sha256: of the prepared shards, as lineages name it.
    shapes: of each array of a row, such as {"embedding": [T, D], "logits": [T, 527]}.
    """

    features_version: int
    avs_version: str
    network: str
    weights_hash: str
    prepared_sha256: str
    dtype: str
    shapes: dict[str, list[int]]
    shards: list[FeatureShard]


def features_name(network: str, weights_hash: str) -> str:
    """Name of a folder below ``features/``."""
    return f"{network}-{weights_hash}"


def features_manifest_uri(folder: str) -> str:
    """Where the manifest of a folder of features lies."""
    return storage.join(folder, _MANIFEST)


def write_features_manifest(folder: str, manifest: FeaturesManifest) -> None:
    """Finish a folder of features."""
    storage.write_json(features_manifest_uri(folder), asdict(manifest))


def read_features_manifest(folder: str) -> FeaturesManifest:
    """The manifest of a folder of features.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    uri = features_manifest_uri(folder)
    if not storage.exists(uri):
        raise DataError(f"{folder} has no {_MANIFEST}: it is not finished")
    plain = storage.read_json(uri)
    version = plain.get("features_version") if isinstance(plain, dict) else None
    if version != FEATURES_VERSION:
        raise DataError(f"{uri} has features_version {version}, this code reads {FEATURES_VERSION}")
    known = {f.name for f in fields(FeaturesManifest)}  # a later version may have added keys
    try:
        shards = [FeatureShard(**shard) for shard in plain.pop("shards")]
        values = {key: value for key, value in plain.items() if key in known}
        return FeaturesManifest(shards=shards, **values)
    except (KeyError, TypeError) as error:
        raise DataError(f"{uri} is not whole ({error})") from None


def shard_bytes(
    rows: Iterable[tuple[str, dict[str, np.ndarray]]],
    *,
    shapes: dict[str, list[int]],
    origin: Origin,
) -> bytes:
    """A side-car file of (clip id, arrays of ``shapes``), a row group a clip, as clip rows are."""
    arrays = [
        pa.field(name, pa.large_binary(), metadata={"dtype": DTYPE, "shape": json.dumps(shape)})
        for name, shape in shapes.items()
    ]
    metadata = {_ORIGIN: json.dumps(asdict(origin)).encode()}
    schema = pa.schema([pa.field("clip_id", pa.string()), *arrays], metadata=metadata)
    out = io.BytesIO()
    with pq.ParquetWriter(out, schema, compression="zstd", compression_level=1) as writer:
        for clip_id, values in rows:
            row: dict[str, Any] = {"clip_id": clip_id}
            for name, shape in shapes.items():
                value = np.ascontiguousarray(values[name], DTYPE)
                assert list(value.shape) == shape, f"{clip_id}: {name} is {value.shape}"
                row[name] = value.tobytes()
            writer.write_table(pa.Table.from_pylist([row], schema=schema))
    return out.getvalue()


def read_shard_origin(uri: str) -> tuple[Origin, FeatureShard] | None:
    """What a side-car file says that it is, and its checksums; None for one that is damaged."""
    data = storage.read_bytes(uri)
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            num_rows = file.num_row_groups
            origin = Origin(**json.loads((file.schema_arrow.metadata or {})[_ORIGIN]))
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    shard = FeatureShard(
        name=uri.rpartition("/")[2],
        num_rows=num_rows,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        source_sha256=origin.source_sha256,
    )
    return origin, shard
