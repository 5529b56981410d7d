"""Workers of inference on Ray Data: a pool of actors, and their errors as the user knows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import ray
from ray.data import ActorPoolStrategy

from avs.errors import AvsError, ConfigError
from avs.scale import ScaleConfig

__all__ = ["Made", "map_in_pool", "own_errors"]

T = TypeVar("T")
_RAYS_ADVICE = "\nFailed to apply UDF transform"  # is added to whatever a worker raises


def map_in_pool(
    worker: type[Any],
    tasks: list[dict[str, Any]],
    *,
    arguments: dict[str, Any],
    scale: ScaleConfig,
    name: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Run ``worker(**arguments)(task)`` for every task on a pool of actors, rows as they finish.

    Tasks and rows cross as JSON, one block a task, so that a slow task delays no other. ``name``:
    of the job, in Ray's dashboard.

    Raises:
        ConfigError: the cluster has not the CPUs or GPUs for one worker.
    """
    if not tasks:
        return
    size = min(_pool_size(scale), len(tasks))
    dataset = ray.data.from_items(
        [{"task": json.dumps(t)} for t in tasks], override_num_blocks=len(tasks)
    )
    # Ray shows the name of the class.
    shown = type(worker.__name__.lstrip("_"), (_JsonWorker,), {})
    rows = dataset.map(
        shown,
        fn_constructor_kwargs={"worker": worker, "arguments": arguments},
        compute=ActorPoolStrategy(size=size),
        num_cpus=scale.cpus_per_worker,
        num_gpus=scale.gpus_per_worker or None,
    )
    if name:
        rows.set_name(name)
    with own_errors():
        for row in rows.iter_rows():
            yield json.loads(row["row"])


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise the AvsError of a worker as itself, not dressed in Ray's class."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error.cause, AvsError):
            raise
        text = str(error.cause).partition(_RAYS_ADVICE)[0]
        error.cause.args = (text,)
        raise error.cause from error


class Made(Generic[T]):
    """What an actor makes when it starts. An error of the user is kept for the first call: raised
    by a constructor, it would reach the driver as an actor that has died."""

    def __init__(self, make: Callable[..., T], **arguments: Any) -> None:
        self._error: AvsError | None = None
        try:
            self._value = make(**arguments)
        except AvsError as error:
            self._error = error

    def get(self) -> T:
        """What was made; raises what was raised."""
        if self._error is not None:
            raise self._error
        return self._value


class _JsonWorker:
    """Actor body: builds the real worker once, then answers task by task."""

    def __init__(self, worker: type[Any], arguments: dict[str, Any]) -> None:
        self._worker = Made(worker, **arguments)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"row": json.dumps(self._worker.get()(json.loads(row["task"])))}


def _pool_size(scale: ScaleConfig) -> int:
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    size = scale.num_workers
    for each, resource in ((scale.cpus_per_worker, "CPU"), (scale.gpus_per_worker, "GPU")):
        if each:
            size = min(size, int(there.get(resource, 0) / each))
    if size < 1:
        raise ConfigError(
            f"scale asks for {scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} GPUs a "
            f"worker; the cluster has {there.get('CPU', 0):g} and {there.get('GPU', 0):g}."
        )
    return size
