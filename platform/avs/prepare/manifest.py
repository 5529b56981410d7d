"""The manifest: written last and atomically; without it a prepared folder is not complete.

Its revision grows whenever the content changes. It is noted beside the manifest before a run that
changes shards takes the manifest away, so that a run that was killed cannot reset it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from avs import storage
from avs.config import build
from avs.errors import DataError
from avs.media.logmel import Alignment
from avs.prepare.records import shard_uri
from avs.prepare.rejects import REJECTS
from avs.schema import SCHEMA_VERSION, ClipFormat

__all__ = [
    "MANIFEST",
    "REVISION",
    "Manifest",
    "ManifestShard",
    "issue_manifest",
    "read_manifest",
    "shard_uri",
    "withdraw_manifest",
    "write_manifest",
]

MANIFEST = "manifest.json"
REVISION = "_revision.json"

# What does not change the content: who wrote it, where and how.
_NOT_CONTENT = ("revision", "avs_version", "config")


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
    """A prepared folder.

    ``counts``: input, ok, rejected, rows, the same ``by_split``, and the ``rejects`` by stage and
    error type. ``statistics``: see :func:`avs.prepare.statistics.merge_statistics`. ``warnings``:
    one line each, with counts. Keys with a default may be missing in older manifests.
    """

    schema_version: int
    avs_version: str
    config: dict[str, Any]
    config_hash: str
    format: ClipFormat
    counts: dict[str, Any]
    shards: list[ManifestShard]
    rejects: str = REJECTS
    rejects_sha256: str = ""
    revision: int = 1
    statistics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def audio_alignment(self) -> Alignment:
        """Alignment of the log-mel examples; older manifests do not name it: AVSBENCH."""
        value = self.config["data"]["audio"].get("alignment", Alignment.AVSBENCH)
        alignment: Alignment = build(Alignment, value, path=f"{MANIFEST}: data.audio.alignment")
        return alignment

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


def write_manifest(out: str, manifest: Manifest) -> None:
    """Write ``out/manifest.json``."""
    storage.write_json(storage.join(out, MANIFEST), asdict(manifest))


def withdraw_manifest(out: str) -> None:
    """Take the manifest away before shards change; its revision is noted for the next one."""
    if storage.exists(storage.join(out, MANIFEST)):
        manifest = read_manifest(out)
        noted = {"revision": manifest.revision, "content": _content_hash(manifest)}
        storage.write_json(storage.join(out, REVISION), noted)
        storage.remove(storage.join(out, MANIFEST))


def issue_manifest(
    out: str, manifest: Manifest, *, before: Callable[[], None] = lambda: None
) -> Manifest:
    """Write the manifest under its revision: the last one's, and one more if the content changed.

    ``before`` runs first, and only when there is something to write: a manifest that stands with
    the same content is left as it is and returned.
    """
    content = _content_hash(manifest)
    if storage.exists(storage.join(out, MANIFEST)):
        standing = read_manifest(out)
        if _content_hash(standing) == content:
            return standing
        revision = standing.revision + 1
    elif storage.exists(storage.join(out, REVISION)):
        noted = storage.read_json(storage.join(out, REVISION))
        revision = noted["revision"] + (noted["content"] != content)
    else:
        revision = 1
    before()
    manifest = replace(manifest, revision=revision)
    write_manifest(out, manifest)
    return manifest


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
    known = {f.name for f in fields(Manifest)}  # a later version may have added keys
    return Manifest(
        **{key: value for key, value in plain.items() if key in known},
        format=ClipFormat(**form, class_names=class_names),
        shards=shards,
    )


def _content_hash(manifest: Manifest) -> str:
    plain = {k: v for k, v in asdict(manifest).items() if k not in _NOT_CONTENT}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
