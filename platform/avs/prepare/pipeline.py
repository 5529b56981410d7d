"""The prepare job on Ray Data.

    list sources (driver) -> plan of shards -> write_shard (1 plan : 1 shard file) -> manifest

Each worker writes its own shards and returns a record of a few kilobytes: frames sent through
the object store into ``write_parquet`` were about half as fast, and that call appends on a rerun.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from avs import storage
from avs.errors import RejectBudgetError
from avs.media.sandbox import sandbox_state
from avs.patience import patiently
from avs.prepare.config import PrepareConfig
from avs.prepare.dry_run import show_plan
from avs.prepare.generate import generate_synthetic
from avs.prepare.manifest import Manifest, read_manifest
from avs.prepare.run import run_prepare
from avs.telemetry import JobRun, current_run, job_run, use_run, write_summary

__all__ = ["on_ray", "prepare"]


def prepare(config: PrepareConfig, *, say: Callable[[str], None] = print) -> Manifest | None:
    """Prepare a data set into ``config.out``; run again, it does only what is missing.

    Returns the manifest, or None when ``config.dry_run`` only shows the plan.

    Raises:
        DataError: the data set cannot be listed, ``out`` holds another configuration's shards, or
            a user's own splits leak.
        LeaseError: another run writes ``out``.
        RejectBudgetError: more rejects than ``max_reject_ratio`` allows.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_cores = max(1, int(resources.get("CPU", 1)))
    if config.dry_run:
        show_plan(config, num_cores=num_cores, say=say)
        return None
    out, start_s = storage.absolute(config.out), time.monotonic()
    with job_run("prepare", out=out) as run:
        if config.data.name == "synthetic":
            generate = partial(on_ray, say=say, worker=GenerateClips)
            generate_synthetic(config.data, generate, say=say)
        try:
            execute = partial(on_ray, say=say)
            manifest = run_prepare(config, execute, num_cores=num_cores, say=say)
        except RejectBudgetError:  # all is written, and so is the summary
            _summarise(read_manifest(out), out, run, start_s=start_s, say=say)
            raise
        _summarise(manifest, out, run, start_s=start_s, say=say)
    return manifest


def _summarise(
    manifest: Manifest, out: str, run: JobRun, *, start_s: float, say: Callable[[str], None]
) -> None:
    counts = manifest.counts
    rows = [
        *((name, counts[key]) for name, key in (("clips", "input"), ("ok", "ok"))),
        *((name, counts[name]) for name in ("rejected", "rows")),
        ("shards", len(manifest.shards)),
        ("bytes", sum(shard.size_bytes for shard in manifest.shards)),
        ("warnings", len(manifest.warnings)),
        ("revision", manifest.revision),
    ]
    write_summary(out, run=run, seconds=time.monotonic() - start_s, rows=rows, say=say)


def on_ray(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    say: Callable[[str], None],
    worker: type[Any] | None = None,
) -> Iterator[Any]:
    """Results of ``function`` on each item, as they come (1 item : 1 result).

    worker: :class:`WriteShard` or another of its kind; Ray shows its name.
    """
    # One block an item, so that a call is a shard.
    rows = ray.data.from_items(
        [{"item": pickle.dumps(item)} for item in items], override_num_blocks=len(items)
    )
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    size = max(1, min(int(resources.get("CPU", 1)), len(items)))
    # Actors and not tasks: the next shard waits at an actor while it writes the last one. Between
    # two tasks a core was idle for a tenth of the time. It decodes with one thread: one CPU each.
    # More than the CPUs that are there now: a cluster that grows.
    results = rows.map(
        worker or WriteShard,  # type: ignore[arg-type]  # Ray takes a class; its annotation says so for map_batches only
        fn_constructor_kwargs={"function": pickle.dumps(function), "run": current_run()},
        compute=ActorPoolStrategy(min_size=size, max_size=len(items)),
        num_cpus=1,
    )
    results.set_name("prepare")
    warned: set[str] = set()
    for row in results.iter_rows():
        if row["warning"] and row["warning"] not in warned:
            warned.add(row["warning"])
            say(f"prepare: warning: {row['warning']}")
        yield pickle.loads(row["result"])


class WriteShard:
    """Actor body: has the function and a decoder ready, then answers item by item."""

    def __init__(self, function: bytes, run: JobRun | None = None) -> None:
        use_run(run)
        self._function = pickle.loads(function)
        self._warning = sandbox_state().warning

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item = pickle.loads(row["item"])
        result = patiently(lambda: self._function(item))
        return {"result": pickle.dumps(result), "warning": self._warning}


class GenerateClips(WriteShard):
    """The same under the name of what it does."""
