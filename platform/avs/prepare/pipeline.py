"""The prepare job on Ray Data.

    list sources (driver) -> plan of shards -> write_shard (1 plan : 1 shard file) -> manifest

Each worker writes its own shards and returns a record of a few kilobytes: frames sent through
the object store into ``write_parquet`` were about half as fast, and that call appends on a rerun.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from avs.media.sandbox import sandbox_state
from avs.prepare.config import PrepareConfig
from avs.prepare.dry_run import show_plan
from avs.prepare.generate import generate_synthetic
from avs.prepare.manifest import Manifest
from avs.prepare.run import run_prepare

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
    if config.data.name == "synthetic":
        generate_synthetic(config.data, partial(on_ray, say=say), say=say)
    return run_prepare(config, partial(on_ray, say=say), num_cores=num_cores, say=say)


def on_ray(
    function: Callable[[Any], Any], items: Sequence[Any], *, say: Callable[[str], None]
) -> Iterator[Any]:
    """Results of ``function`` on each item, as they come (1 item : 1 result)."""
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
        _Worker,  # type: ignore[arg-type]  # Ray takes a class; its annotation says so for map_batches only
        fn_constructor_kwargs={"function": pickle.dumps(function)},
        compute=ActorPoolStrategy(min_size=size, max_size=len(items)),
        num_cpus=1,
    )
    warned: set[str] = set()
    for row in results.iter_rows():
        if row["warning"] and row["warning"] not in warned:
            warned.add(row["warning"])
            say(f"prepare: warning: {row['warning']}")
        yield pickle.loads(row["result"])


class _Worker:
    """Actor body: has the function and a decoder ready, then answers item by item."""

    def __init__(self, function: bytes) -> None:
        self._function = pickle.loads(function)
        self._warning = sandbox_state().warning

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        result = self._function(pickle.loads(row["item"]))
        return {"result": pickle.dumps(result), "warning": self._warning}
