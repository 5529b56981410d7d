"""The manifest: written last and atomically; without it a prepared folder is not complete."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from avs import storage
from avs.errors import DataError
from avs.prepare.shard import SHARDS
from avs.schema import SCHEMA_VERSION, ClipFormat

__all__ = [
    "MANIFEST",
    "Manifest",
    "ManifestShard",
    "read_manifest",
    "shard_uri",
    "write_manifest",
]

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestShard:
    """One shard file: rows, bytes and checksum."""

    name: str
    split: str
    num_rows: int
    size_bytes: int
    sha256: str


@dataclass(kw_only=True, slots=True)
class Manifest:
    """A prepared folder. ``counts``: input, ok, rejected, rows, and the same for each split."""

    schema_version: int
    avs_version: str
    config: dict[str, Any]
    config_hash: str
    format: ClipFormat
    counts: dict[str, Any]
    shards: list[ManifestShard]
    rejects: str = "rejects.parquet"

    def split_shards(self, split: str) -> list[ManifestShard]:
        """The shards of one split.

        Raises:
            DataError: there is no such split; names the ones there are.
        """
        found = [s for s in self.shards if s.split == split]
        if not found:
            known = ", ".join(sorted({s.split for s in self.shards})) or "none"
            raise DataError(f"split={split} has no clips in the prepared data. Known: {known}.")
        return found


def shard_uri(prepared: str, name: str) -> str:
    """Where a shard of the prepared folder lies."""
    return storage.join(prepared, SHARDS, name)


def write_manifest(out: str, manifest: Manifest) -> None:
    """Write ``out/manifest.json``."""
    storage.write_json(storage.join(out, MANIFEST), asdict(manifest))


def read_manifest(prepared: str) -> Manifest:
    """Read and check the manifest of a prepared folder.

    Raises:
        DataError: the folder is missing, not complete, or of another schema version.
    """
    uri = storage.join(prepared, MANIFEST)
    if not storage.exists(prepared):
        raise DataError(f"data.prepared={prepared} does not exist: run jobs/prepare.py first.")
    if not storage.exists(uri):
        raise DataError(
            f"{prepared} has no {MANIFEST}: it is not prepared data, or preparing has not "
            "finished; run jobs/prepare.py again with the same out=."
        )
    plain = storage.read_json(uri)
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{uri} has schema version {version}, this code reads {SCHEMA_VERSION}: "
            "run jobs/prepare.py again into a new folder."
        )
    form = plain.pop("format")
    shards = [ManifestShard(**s) for s in plain.pop("shards")]
    class_names = tuple(form.pop("class_names"))
    return Manifest(**plain, format=ClipFormat(**form, class_names=class_names), shards=shards)
