"""The output folder of a prepare run: whose it is, what must go, and what is written at the end."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from avs import __version__, storage
from avs.config import dump
from avs.config_changes import changes, tell
from avs.datasets import DataConfig
from avs.errors import DataError
from avs.prepare.config import PrepareConfig
from avs.prepare.manifest import (
    Manifest,
    ManifestShard,
    issue_manifest,
    withdraw_manifest,
)
from avs.prepare.plan import config_hash
from avs.prepare.records import RECORDS, SHARDS, Reject, ShardRecord
from avs.prepare.rejects import REJECTS, common_messages, count_rejects, reject_table
from avs.prepare.sheet import SHEET, contact_sheet
from avs.prepare.statistics import merge_statistics
from avs.schema import SCHEMA_VERSION, ClipFormat

__all__ = ["PLAN", "check_folder", "claim_folder", "clear_folder", "finish_folder", "write_rejects"]

PLAN = "_plan.json"


def check_folder(out: str, data: DataConfig) -> None:
    """Refuse a folder that another configuration began.

    Raises:
        DataError: names the keys that differ.
    """
    uri = storage.join(out, PLAN)
    if not storage.exists(uri):
        return
    theirs, mine = storage.read_json(uri), dump(data)
    same_content = theirs["config_hash"] == config_hash(data)
    # More clips of the same root may be added; another root or fewer clips would remove some.
    if same_content and theirs["config"]["root"] == mine["root"] and not _narrows(theirs, mine):
        return
    changed = changes(mine, theirs["config"], prefix="data")
    raise DataError(
        f"{out} was prepared with another configuration: {tell(changed)}. "
        "Give another out=, or remove that folder."
    )


def _narrows(theirs: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Whether ``data.limit`` takes fewer clips than the folder was made with."""
    before, now = theirs["config"]["limit"], mine["limit"]
    return now is not None and (before is None or now < before)


def claim_folder(out: str, data: DataConfig) -> None:
    """Mark the folder as this configuration's; clean up after writers that were killed."""
    check_folder(out, data)
    uri = storage.join(out, PLAN)
    mine = {"config_hash": config_hash(data), "config": dump(data)}
    if not storage.exists(uri) or storage.read_json(uri) != mine:
        storage.write_json(uri, mine)
    storage.remove_temporaries(out)


def clear_folder(out: str, names: Collection[str], *, changes: bool) -> None:
    """Before shards change: withdraw the manifest, remove shards that the plan does not name.

    A folder that nothing will change (``changes`` is False, no strays) keeps its manifest.
    """
    strays = [
        *_strays(out, SHARDS, set(names)),
        *_strays(out, RECORDS, {f"{name}.json" for name in names}),
    ]
    if changes or strays:
        withdraw_manifest(out)
    for uri in strays:
        storage.remove(uri)


def finish_folder(
    out: str,
    records: Sequence[ShardRecord],
    config: PrepareConfig,
    form: ClipFormat,
    *,
    warnings: Sequence[str],
    check: Callable[[], None],
) -> Manifest:
    """Write rejects, contact sheet and, last, the manifest; nothing where all this stands.

    ``check`` is called before the manifest is written and raises when the lease was lost.
    """
    table = reject_table([reject for record in records for reject in record.rejects])
    shards = [
        ManifestShard(
            name=r.name,
            split=r.split,
            num_rows=r.num_rows,
            size_bytes=r.size_bytes,
            sha256=r.sha256,
        )
        for r in records
        if r.num_rows
    ]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        avs_version=__version__,
        config=dump(config),
        config_hash=config_hash(config.data),
        format=form,
        counts=_counts(records),
        shards=shards,
        rejects_sha256=hashlib.sha256(table).hexdigest(),
        statistics=merge_statistics(records),
        warnings=[*warnings, *_clip_warnings(records)],
    )

    def write_others() -> None:
        sheet = contact_sheet(out, shards, num_classes=len(form.class_names))
        storage.write_bytes(storage.join(out, REJECTS), table)
        storage.write_bytes(storage.join(out, SHEET), sheet)
        check()

    return issue_manifest(out, manifest, before=write_others)


def write_rejects(out: str, records: Sequence[ShardRecord]) -> None:
    """Write the table of rejects alone, for a run that ends without a manifest."""
    table = reject_table([reject for record in records for reject in record.rejects])
    storage.write_bytes(storage.join(out, REJECTS), table)


def _strays(out: str, folder: str, names: set[str]) -> list[str]:
    files = storage.list_files(storage.join(out, folder))
    return [storage.join(out, folder, f.path) for f in files if f.path not in names]


def _counts(records: Sequence[ShardRecord]) -> dict[str, Any]:
    zero = {"input": 0, "ok": 0, "rejected": 0, "rows": 0}
    by_split: dict[str, dict[str, int]] = defaultdict(lambda: dict(zero))
    rejects: list[Reject] = []
    for record in records:
        counts = by_split[record.split]
        counts["input"] += record.num_clips + len(record.rejects)
        counts["ok"] += record.num_clips
        counts["rejected"] += len(record.rejects)
        counts["rows"] += record.num_rows
        rejects += record.rejects
    total = {key: sum(c[key] for c in by_split.values()) for key in zero}
    return {**total, "by_split": dict(by_split), "rejects": count_rejects(rejects)}


def _clip_warnings(records: Sequence[ShardRecord]) -> list[str]:
    """What was odd about clips, counted; and how many shards an earlier version left unmeasured."""
    told = [(clip_id, w) for r in records for clip_id, found in r.warnings.items() for w in found]
    lines = [f"{count} x {message}" for message, count in common_messages(told)]
    unmeasured = sum(1 for r in records if r.num_rows and not r.statistics)
    if unmeasured:
        lines.append(
            f"shards of an earlier version: {unmeasured}; statistics and the search for the same "
            "content leave them out"
        )
    return lines
