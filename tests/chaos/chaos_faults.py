"""What is done to a running job, and what is done about it afterwards."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from chaos_cluster import Cluster, Job, wait_for
from flaky_s3 import Failure
from machines import Machine

__all__ = ["FAULTS", "Fault", "Strike"]

CUT_S = 60.0
AWAY_S = 30.0
SLOW_S = 0.5  # a request


@dataclass(frozen=True)
class Strike:
    """A running job, and whom to strike. ``script``: of jobs/; ``worker``: part of the names of its
    actors."""

    cluster: Cluster
    job: Job
    script: str
    worker: str

    def find_worker(self) -> tuple[Machine, int]:
        """A process of the job that is not on the head: its machine and its number there."""
        found: list[tuple[Machine, int]] = []

        def is_there() -> bool:
            found[:] = [
                (actor["machine"], actor["pid"])
                for actor in self.cluster.actors(self.worker)
                if actor["machine"] is not self.cluster.head
            ]
            return bool(found) or self.job.has_ended

        wait_for(is_there, deadline_s=300)
        assert found, f"the job has no {self.worker} beside the head\n{self.job.printed}"
        return random.choice(found)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``strike`` does it; ``heal`` brings the cluster to what it was, when the job has ended.

    ``ends_job``: the same command must then be run again.
    """

    name: str
    strike: Callable[[Strike], None]
    heal: Callable[[Cluster], None]
    ends_job: bool = False


def _kill_worker(target: Strike) -> None:
    machine, pid = target.find_worker()
    machine.run("kill", "-9", str(pid))


def _kill_node(target: Strike) -> None:
    machine, _ = target.find_worker()
    machine.kill()


def _kill_driver(target: Strike) -> None:
    assert target.cluster.head.kill_processes(f"^python jobs/{target.script}.py")


def _kill_head(target: Strike) -> None:
    target.cluster.head.kill()


def _cut(target: Strike) -> None:
    machine, _ = target.find_worker()
    machine.cut()
    _pass(CUT_S)
    machine.heal()


def _fill_disk(target: Strike) -> None:
    machine, _ = target.find_worker()
    machine.fill_disk()


def _fail_storage(target: Strike) -> None:
    for outage in (Failure.INTERNAL, Failure.SLOW_DOWN, Failure.RESET):
        target.cluster.s3.outage = outage
        _pass(AWAY_S / 3)
    target.cluster.s3.outage = None


def _slow_storage(target: Strike) -> None:
    target.cluster.s3.delay_s = SLOW_S


def _pass(seconds: float) -> None:
    """The fault is this long."""
    end_s = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= end_s, deadline_s=seconds + 10)


def _repair(cluster: Cluster) -> None:
    """Calm storage, free disks, and nodes where they are missing, as a cluster manager does it."""
    cluster.s3.outage, cluster.s3.delay_s = None, 0.0
    for machine in cluster.machines:
        if machine.is_on:
            machine.heal()
            machine.free_disk()
    cluster.start()


def _begin_anew(cluster: Cluster) -> None:
    """Without its head a cluster is lost: all nodes start again."""
    for machine in cluster.machines:
        machine.kill()
    cluster.start()


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(name="worker", strike=_kill_worker, heal=_repair),
        Fault(name="node", strike=_kill_node, heal=_repair),
        Fault(name="driver", strike=_kill_driver, heal=_repair, ends_job=True),
        Fault(name="head", strike=_kill_head, heal=_begin_anew, ends_job=True),
        Fault(name="network", strike=_cut, heal=_repair),
        Fault(name="disk", strike=_fill_disk, heal=_repair),
        Fault(name="s3_fails", strike=_fail_storage, heal=_repair),
        Fault(name="s3_slow", strike=_slow_storage, heal=_repair),
    )
}
