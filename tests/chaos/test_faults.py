"""Every job under every fault: nothing is lost, nothing is there twice, the result is the same."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from chaos_cluster import Cluster, wait_for
from chaos_faults import FAULTS, Fault, Strike
from chaos_jobs import KINDS, Kind
from chaos_table import Cell

# Where a job gives up, if it was just writing there: that nothing fits any more is told at once.
MAY_END = {("prepare", "disk"), ("segment", "disk")}

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_struck_job_gives_what_an_undisturbed_one_gives(
    machines: Cluster, calm: Any, record: Callable[[Cell], None], kind: Kind, fault: Fault
) -> None:
    expected = calm.run(kind)
    out = machines.uri(kind.name, f"{fault.name}-{uuid.uuid4().hex[:6]}")
    begun_s = time.monotonic()
    try:
        outcome = _strike(machines, kind, fault, out)
    finally:
        seconds = time.monotonic() - begun_s
        fault.heal(machines)
    assert kind.result(machines, out) == expected
    calm_s = calm.seconds[kind.name]
    record(Cell(job=kind.name, fault=fault.name, outcome=outcome, seconds=seconds, calm_s=calm_s))


def _strike(machines: Cluster, kind: Kind, fault: Fault, out: str) -> str:
    """Run the job, strike, and run it again where it ended; what it took."""
    command = kind.command(machines, out)
    job = machines.submit(*command)
    wait_for(lambda: kind.is_at_work(machines, out) or job.has_ended, told=lambda: job.printed)
    assert not job.has_ended, f"it ended before it was struck\n{job.printed[-3000:]}"
    fault.strike(Strike(machines, job, script=kind.name, worker=kind.worker))
    is_lost = fault.name == "head"  # nobody is left who would know the job
    if not is_lost and job.wait() == "SUCCEEDED":
        assert not fault.ends_job, "it goes on by itself: the table says otherwise"
        return "goes on by itself"
    told = job.printed
    assert fault.ends_job or (kind.name, fault.name) in MAY_END, told[-6000:]
    fault.heal(machines)
    machines.submit(*command).must_succeed()
    reasons = [line for line in told.splitlines() if line.startswith("error:")]
    return f"ends{''.join(f' ({line[:160]})' for line in reasons[-1:])}; the same command goes on"
