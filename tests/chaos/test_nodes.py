"""Each job on a cluster of several nodes that have their own addresses and share an S3 alone."""

from __future__ import annotations

from typing import Any

import pytest
from chaos_cluster import Cluster, wait_for
from chaos_jobs import PREPARE, SEGMENT, TRAIN, TUNE

pytestmark = pytest.mark.timeout(900)

_CODE = """
import socket, avs, ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=2)
def where():
    return socket.gethostname(), avs.__file__
print(sorted(ray.get([where.remote() for _ in range(3)])))
"""


def test_training_on_two_nodes_with_prepared_clips_in_a_bucket(
    machines: Cluster, calm: Any
) -> None:
    """Also: prepare; and every shard is read by nodes that did not write it."""
    counts, *_ = calm.run(PREPARE)
    assert (counts["ok"], counts["rejected"]) == (24, 0)
    out = machines.uri("train", "two-nodes")
    job = machines.submit(*TRAIN.command(machines, out))
    wait_for(lambda: TRAIN.is_at_work(machines, out) or job.has_ended, told=lambda: job.printed)
    ranks = {actor["machine"].name for actor in machines.actors(TRAIN.worker)}
    assert len(ranks) == 2, job.printed
    job.must_succeed()
    assert [epoch for epoch, *_ in TRAIN.result(machines, out)] == [1, 2, 3]
    assert machines.read(f"{out}/best.json")


@pytest.mark.full
def test_the_code_of_a_job_comes_with_it(machines: Cluster) -> None:
    printed = machines.submit("python", "-c", _CODE).must_succeed()
    for machine in machines.machines:
        assert f"'{machine.name}'" in printed
    assert printed.count("/runtime_resources/py_modules_files/") == len(machines.machines)


@pytest.mark.full
def test_a_sweep(calm: Any) -> None:
    trials, folders = calm.run(TUNE)
    assert [(name, status, epochs) for name, _, status, epochs, _ in trials] == [
        (name, "finished", 3) for name in ("0000", "0001", "0002")
    ]
    assert folders == ["0000", "0001", "0002"]


@pytest.mark.full
def test_segmenting_a_bucket(calm: Any) -> None:
    videos, masks = calm.run(SEGMENT)
    assert [status for _, status in videos] == ["ok"] * 24
    assert len(masks) == 24 * (1 + 5)
