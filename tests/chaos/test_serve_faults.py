"""The service on several nodes under every fault: it comes back, and its masks stay the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chaos_cluster import Cluster, Job, wait_for
from chaos_faults import FAULTS, Fault, Strike
from chaos_jobs import RUN, TRAIN
from chaos_table import Cell
from chaos_traffic import TOKEN, Traffic

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def video(machines: Cluster) -> bytes:
    found = sorted(machines.files.find(machines.uri("in", "ms3_data/raw_videos")))
    return machines.read(f"s3://{found[0]}")


@pytest.fixture
def serving(machines: Cluster, calm: Any) -> Iterator[Job]:
    """A service that answers; afterwards nothing of it is left."""
    calm.run(TRAIN)
    yield _serve(machines)
    for job in machines.running_jobs():
        machines.stop(job)
        job.wait()
    if machines.actors("ServeController"):  # of a driver that was killed
        machines.submit("serve", "shutdown", "-y", "--address", machines.url).must_succeed()


def _serve(machines: Cluster) -> Job:
    script = ["env", f"AVS_API_TOKENS={TOKEN}", "python", "jobs/serve.py"]
    script += [f"checkpoint={machines.uri(RUN)}", f"scratch={machines.uri('scratch')}"]
    # Large uploads lie in the bucket; here all of them.
    job = machines.submit(*script, "host=0.0.0.0", "spool_above_bytes=0", "access.per_minute=6000")
    wait_for(lambda: "ready at" in job.printed or job.has_ended, told=lambda: job.printed)
    assert not job.has_ended, job.printed
    return job


def test_stopping_the_job_ends_the_service(machines: Cluster, serving: Job, video: bytes) -> None:
    """Also while a request runs, which is finished; another machine is let in with a token only."""
    with Traffic(machines.head.address, video) as traffic:
        traffic.wait_for_answers(3)
        ask = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
        url = f"http://{machines.head.address}:8000/v1/models"
        assert machines.workers[0].run(*ask, url) == "401"
        machines.stop(serving)
        serving.wait()
    assert not machines.actors("SERVE"), serving.printed
    _serve(machines)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_struck_service_answers_again_and_the_same(
    machines: Cluster, serving: Job, video: bytes, record: Callable[[Cell], None], fault: Fault
) -> None:
    begun_s = time.monotonic()
    with Traffic(machines.head.address, video) as traffic:
        traffic.wait_for_answers(3)
        before = len(traffic.answers)
        fault.strike(Strike(machines, serving, script="serve", worker="Segmenter"))
        if fault.name == "head":
            fault.heal(machines)
        if fault.ends_job:
            wait_for(lambda: serving.status != "RUNNING", deadline_s=60)
            if fault.name == "driver":  # nobody needs it to answer
                traffic.wait_for_answers(3)
            _serve(machines)
        if fault.name == "disk":  # where the only ingress may be
            traffic.wait_for_requests(10)
            fault.heal(machines)
        traffic.wait_for_answers(10)
    if fault.name != "head":
        fault.heal(machines)
    seconds = time.monotonic() - begun_s
    assert len(traffic.bodies) == 1
    lost = {s: n for s, n in traffic.statuses.items() if s != 200}
    outcome = (
        f"{len(traffic.answers) - before} requests, not answered by masks: {lost or 'none'}; "
        f"longest time without masks {traffic.longest_gap_s:.0f} s"
    )
    record(Cell(job="serve", fault=fault.name, outcome=outcome, seconds=seconds))
