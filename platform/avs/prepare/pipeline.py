"""The prepare job on Ray Data.

    list sources (driver) -> plan of shards -> write_shard (1 plan : 1 shard file) -> manifest

Each worker writes its own shards and returns a record of a few kilobytes: frames sent through
the object store into ``write_parquet`` were about half as fast, and that call appends on a rerun.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from avs.prepare.config import PrepareConfig
from avs.prepare.dry_run import show_plan
from avs.prepare.generate import generate_synthetic
from avs.prepare.manifest import Manifest
from avs.prepare.run import run_prepare

__all__ = ["prepare"]


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
    if config.data.name == "synthetic":
        generate_synthetic(config.data, _on_ray, say=say)
    return run_prepare(config, _on_ray, num_cores=num_cores, say=say)


def _on_ray(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Results of ``function`` on each item, as they come (1 item : 1 result)."""

    def run(row: dict[str, Any]) -> dict[str, Any]:
        return {"result": pickle.dumps(function(pickle.loads(row["item"])))}

    # One block an item, so that a task is a shard. A task decodes with one thread: one CPU each.
    rows = ray.data.from_items(
        [{"item": pickle.dumps(item)} for item in items], override_num_blocks=len(items)
    )
    for row in rows.map(run, num_cpus=1).iter_rows():
        yield pickle.loads(row["result"])
