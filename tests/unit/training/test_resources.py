"""What is counted before a job starts, on clusters that are told and not there."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from avs.errors import ConfigError
from avs.scale import ScaleConfig
from avs.training.config import Feed
from avs.training.resources import check_resources, reading_cpus


@pytest.fixture(autouse=True)
def _two_nodes_of_two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": alive, "Resources": {"CPU": 2.0}} for alive in (True, True, False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 4.0})


def scale(**changes: Any) -> ScaleConfig:
    return ScaleConfig(**{"num_workers": 2, "cpus_per_worker": 1, "gpus_per_worker": 0} | changes)


def test_workers_that_fit_the_sum_of_the_nodes_and_none_of_them_are_refused() -> None:
    check_resources(scale(cpus_per_worker=1.5))
    with pytest.raises(ConfigError, match=r"num_workers=1: .* room for 0 workers of 3 CPUs"):
        check_resources(scale(num_workers=1, cpus_per_worker=3))


def test_of_a_cluster_that_grows_what_it_lacks_is_told_and_not_refused() -> None:
    lines: list[str] = []
    check_resources(scale(autoscaling=True), say=lines.append)
    assert lines == []
    check_resources(scale(gpus_per_worker=1, autoscaling=True), say=lines.append)
    check_resources(scale(cpus_per_worker=3, num_workers=1, autoscaling=True), say=lines.append)
    gpus, room = lines
    assert "needs 2 GPUs, the cluster has 0" in gpus
    assert "room for 0 workers of 3 CPUs" in room
    with pytest.raises(ConfigError, match=r"needs 2 GPUs.*scale\.autoscaling=true"):
        check_resources(scale(gpus_per_worker=1))


def test_a_cluster_that_is_busy_is_waited_for_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    check_resources(scale(num_workers=4), say=lines.append)
    assert lines == []
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    check_resources(scale(num_workers=4), say=lines.append)
    check_resources(scale(num_workers=4, min_workers=1), say=lines.append)
    assert lines == [
        "waiting for others on the cluster to end: 4 of its 4 CPUs are needed, 1 are free"
    ]


def test_workers_that_take_every_cpu_leave_none_to_read_with() -> None:
    assert reading_cpus(Feed.RAY, scale()) == 1.0
    assert reading_cpus(Feed.THREADS, scale(num_workers=4)) == 0.0
    with pytest.raises(ConfigError, match=r"num_workers=4 .*takes 4, the cluster has 4.*=threads"):
        reading_cpus(Feed.RAY, scale(num_workers=4))
    assert reading_cpus(Feed.RAY, scale(num_workers=4, autoscaling=True)) == 1.0


def test_a_job_of_one_worker_takes_no_notice_of_how_few_a_training_goes_on_with() -> None:
    elastic = scale(num_workers=4, min_workers=3)
    assert elastic.one_worker == scale(num_workers=1)
