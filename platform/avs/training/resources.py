"""What the cluster has for a job, counted before it starts; Ray waits for the rest in silence."""

from __future__ import annotations

from collections.abc import Callable

import ray

from avs.errors import ConfigError
from avs.scale import ScaleConfig
from avs.training.config import Feed

__all__ = ["check_resources", "reading_cpus"]


def check_resources(scale: ScaleConfig, *, say: Callable[[str], None] = print) -> None:
    """Refuse what the cluster can never place; of one that grows, tell what it waits for.

    Of an elastic training (``min_workers``), what it cannot do without.

    Raises:
        ConfigError: with the numbers asked for and there.
    """
    lacking = _lacking(scale)
    if lacking is None:
        _tell_busy(scale, say)
        return
    if not scale.autoscaling:
        raise ConfigError(f"{lacking}, or give scale.autoscaling=true where the cluster grows.")
    say(f"waiting for the cluster to grow: {lacking}, if it cannot")


def reading_cpus(feed: Feed, scale: ScaleConfig) -> float:
    """CPUs that each rank's stream may use; 0 where its own process reads.

    Raises:
        ConfigError: ``data.feed=ray`` and training takes every CPU; says how many there are.
    """
    if feed is Feed.THREADS:
        return 0.0
    num_cpus, taken = _there("CPU"), scale.num_workers * scale.cpus_per_worker
    if num_cpus > taken:
        return (num_cpus - taken) / scale.num_workers
    if scale.autoscaling:
        return 1.0
    raise ConfigError(
        f"data.feed=ray reads with the CPUs that training leaves: scale.num_workers="
        f"{scale.num_workers} with scale.cpus_per_worker={scale.cpus_per_worker:g} takes "
        f"{taken:g}, the cluster has {num_cpus:g}: lower one, or give data.feed=threads."
    )


def _lacking(scale: ScaleConfig) -> str | None:
    """What the cluster of now lacks, with what to do about it; None where it has all."""
    count = "num_workers" if scale.min_workers is None else "min_workers"
    num_workers: int = getattr(scale, count)
    for key, resource, each in (
        ("cpus_per_worker", "CPU", scale.cpus_per_worker),
        ("gpus_per_worker", "GPU", scale.gpus_per_worker),
    ):
        wanted, there = each * num_workers, _there(resource)
        if wanted > there:
            return (
                f"scale.{count}={num_workers} with scale.{key}={each:g} needs "
                f"{wanted:g} {resource}s, the cluster has {there:g}: lower one"
            )
    room = _room(scale)
    if room < num_workers:
        each_gpu = f" and {scale.gpus_per_worker:g} GPUs" if scale.gpus_per_worker else ""
        return (
            f"scale.{count}={num_workers}: a worker must fit one node, and the nodes have room for "
            f"{room} workers of {scale.cpus_per_worker:g} CPUs{each_gpu}: lower what each takes"
        )
    return None


def _tell_busy(scale: ScaleConfig, say: Callable[[str], None]) -> None:
    """Where others use what is needed; Ray gives it to this job as soon as they end."""
    num_workers = scale.min_workers or scale.num_workers
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    for resource, each in (("CPU", scale.cpus_per_worker), ("GPU", scale.gpus_per_worker)):
        wanted, there = each * num_workers, _there(resource)
        if wanted > free.get(resource, 0.0):
            say(
                f"waiting for others on the cluster to end: {wanted:g} of its {there:g} "
                f"{resource}s are needed, {free.get(resource, 0.0):g} are free"
            )


def _there(resource: str) -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get(resource, 0.0)


def _room(scale: ScaleConfig) -> int:
    """How many workers the living nodes hold."""
    wanted = {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return sum(
        int(min(node.get(name, 0.0) / each + 1e-9 for name, each in wanted.items() if each))
        for node in nodes
    )
