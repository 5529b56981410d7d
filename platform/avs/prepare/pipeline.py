"""The prepare job on Ray Data.

    list sources (driver) -> plan of shards -> write_shard (1 plan : 1 shard file) -> manifest

Each worker writes its own shards and returns a row of a few hundred bytes: frames sent through
the object store into ``write_parquet`` were about half as fast, and that call appends on a rerun.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from avs import __version__, storage
from avs.config import dump
from avs.datasets import DataConfig, dataset_spec
from avs.datasets.synthetic import clip_plan, write_clip, write_metadata
from avs.errors import DataError
from avs.lease import Lease
from avs.prepare.config import PrepareConfig
from avs.prepare.manifest import MANIFEST, Manifest, ManifestShard, write_manifest
from avs.prepare.plan import ShardPlan, config_hash, plan_shards
from avs.prepare.shard import RECORDS, SHARDS, Reject, ShardRecord, read_record, write_shard
from avs.progress import Progress
from avs.schema import SCHEMA_VERSION, ClipFormat

__all__ = ["prepare"]

PLAN = "_plan.json"


def prepare(config: PrepareConfig, *, say: Callable[[str], None] = print) -> Manifest:
    """Prepare a data set into ``config.out``; run again, it does only what is missing.

    Raises:
        DataError: the data set cannot be listed, or ``out`` holds another configuration's shards.
        LeaseError: another run writes ``out``.
    """
    out = storage.absolute(config.out)
    config.data.root = storage.absolute(config.data.root)
    if config.data.name == "synthetic":
        _generate(config.data, say)
    spec = dataset_spec(config.data.name)
    sources = spec.list_clips(config.data)
    plans = plan_shards(sources, config.data, shard_clips=config.shard_clips)
    form = ClipFormat(
        num_frames=config.data.num_frames,
        height_px=config.data.image_size_px,
        width_px=config.data.image_size_px,
        class_names=spec.class_names(config.data),
        with_waveform=config.data.with_waveform,
    )
    with Lease(out, job="prepare", say=say) as lease:
        _claim(out, config.data)
        done = {p.name: r for p in plans if (r := read_record(out, p)) is not None}
        todo = [p for p in plans if p.name not in done]
        if todo:
            storage.remove(storage.join(out, MANIFEST))  # the folder is not whole until the end
        if done:
            say(f"prepare: {len(done)} of {len(plans)} shards are there already")
        progress = Progress(
            "prepare", total=sum(len(p.sources) for p in todo), unit="clips", say=say
        )
        for record in _write_shards(todo, config, form, out=out, owner=lease.owner):
            done[record.name] = record
            progress.add(record.num_clips + len(record.rejects), _rejected(done.values()))
        lease.check()
        manifest = _finish(out, [done[p.name] for p in plans], config, form)
    counts = manifest.counts
    say(f"prepare: {counts['ok']} ok, {counts['rejected']} rejected -> {out}")
    return manifest


def _write_shards(
    plans: list[ShardPlan], config: PrepareConfig, form: ClipFormat, *, out: str, owner: str
) -> Iterator[ShardRecord]:
    if not plans:
        return

    def run(row: dict[str, Any]) -> dict[str, Any]:
        plan = pickle.loads(row["plan"])
        return {"record": pickle.dumps(write_shard(plan, config.data, form, out=out, owner=owner))}

    # One block a plan, so that a task is a shard. A task decodes with one thread: one CPU each.
    rows = ray.data.from_items(
        [{"plan": pickle.dumps(p)} for p in plans], override_num_blocks=len(plans)
    )
    for row in rows.map(run, num_cpus=1).iter_rows():
        yield pickle.loads(row["record"])


def _generate(data: DataConfig, say: Callable[[str], None]) -> None:
    """Write the synthetic data set below ``data.root`` unless it is there whole."""
    if data.synthetic is None:
        raise DataError("data=synthetic needs the group data.synthetic.")
    config, root = data.synthetic, data.root
    marker = storage.join(root, "synthetic.json")
    if storage.exists(marker):
        if storage.read_json(marker) != dump(config):
            raise DataError(f"{root} holds synthetic data of another configuration: {marker}")
        return
    if storage.exists(root) and storage.list_files(root) and not _is_partial(root):
        raise DataError(f"data.root={root} holds other files; give an empty or new folder.")
    Path(root).mkdir(parents=True, exist_ok=True)
    storage.write_bytes(storage.join(root, "_writing"), b"")
    specs = clip_plan(config)
    say(f"synthetic: writing {len(specs)} clips to {root}")

    def run(row: dict[str, Any]) -> dict[str, Any]:
        write_clip(root, specs[row["id"]], config)
        return row

    progress = Progress("synthetic", total=len(specs), unit="clips", say=say)
    blocks = 1 + len(specs) // 20
    for _ in ray.data.range(len(specs), override_num_blocks=blocks).map(run).iter_rows():
        progress.add(1)
    write_metadata(root, specs, config)
    storage.remove(storage.join(root, "_writing"))
    storage.write_json(marker, dump(config))


def _is_partial(root: str) -> bool:
    return storage.exists(storage.join(root, "_writing"))


def _claim(out: str, data: DataConfig) -> None:
    """Refuse a folder that another configuration began; clean up after writers that were killed."""
    uri = storage.join(out, PLAN)
    mine = {"config_hash": config_hash(data), "config": dump(data)}
    if storage.exists(uri):
        theirs = storage.read_json(uri)
        if theirs["config_hash"] != mine["config_hash"]:
            changed = [k for k, v in mine["config"].items() if theirs["config"].get(k) != v]
            raise DataError(
                f"{out} was prepared with another configuration (data.{', data.'.join(changed)} "
                "differ): give another out=, or remove that folder."
            )
    storage.write_json(uri, mine)
    storage.remove_temporaries(out)


def _finish(
    out: str, records: list[ShardRecord], config: PrepareConfig, form: ClipFormat
) -> Manifest:
    _remove_strays(out, {r.name for r in records})
    rejects = [reject for record in records for reject in record.rejects]
    _write_rejects(out, rejects)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        avs_version=__version__,
        config=dump(config),
        config_hash=config_hash(config.data),
        format=form,
        counts=_counts(records),
        shards=[
            ManifestShard(
                name=r.name,
                split=r.split,
                num_rows=r.num_rows,
                size_bytes=r.size_bytes,
                sha256=r.sha256,
            )
            for r in records
            if r.num_rows
        ],
    )
    write_manifest(out, manifest)
    return manifest


def _counts(records: list[ShardRecord]) -> dict[str, Any]:
    zero = {"input": 0, "ok": 0, "rejected": 0, "rows": 0}
    by_split: dict[str, dict[str, int]] = defaultdict(lambda: dict(zero))
    for record in records:
        counts = by_split[record.split]
        counts["input"] += record.num_clips + len(record.rejects)
        counts["ok"] += record.num_clips
        counts["rejected"] += len(record.rejects)
        counts["rows"] += record.num_rows
    total = {key: sum(c[key] for c in by_split.values()) for key in zero}
    return {**total, "by_split": dict(by_split)}


def _write_rejects(out: str, rejects: list[Reject]) -> None:
    names = list(Reject.__dataclass_fields__)
    schema = pa.schema([(name, pa.string()) for name in names])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(r) for r in rejects], schema=schema), sink)
    storage.write_bytes(storage.join(out, "rejects.parquet"), sink.getvalue().to_pybytes())


def _remove_strays(out: str, names: set[str]) -> None:
    """Remove shards and records of an earlier plan of the same configuration (input changed)."""
    for folder, suffix in ((SHARDS, ""), (RECORDS, ".json")):
        base = storage.join(out, folder)
        if storage.exists(base):
            for info in storage.list_files(base):
                if info.path.removesuffix(suffix) not in names:
                    storage.remove(storage.join(base, info.path))


def _rejected(records: Any) -> str:
    count = sum(len(r.rejects) for r in records)
    return f"{count} rejected" if count else ""
