"""Every job that a manifest or the README of cluster/ starts: its settings compose and parse."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from cluster_files import CLUSTER, ROOT, manifests, readme_lines
from hydra import compose, initialize_config_dir

from avs.config import parse
from avs.inference.config import SegmentConfig
from avs.overrides import values_forced
from avs.prepare import PrepareConfig
from avs.prepare.stages import parse_stage
from avs.training import TrainConfig
from avs.tuning import TuneConfig

JOBS: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
    "prepare": (PrepareConfig, parse_stage),
    "segment": (SegmentConfig, partial(parse, schema=SegmentConfig)),
    "train": (TrainConfig, partial(parse, schema=TrainConfig)),
    "tune": (TuneConfig, partial(parse, schema=TuneConfig)),
}
_JOB = re.compile(r"python (?:/app/)?jobs/(?P<job>\w+)\.py(?P<settings>[^|]*)")
ENTRYPOINTS = {
    one["metadata"]["name"]: one["spec"]["entrypoint"]
    for one in manifests()
    if one["kind"] == "RayJob"
}
README = [line for line in readme_lines() if "jobs/" in line]


def parsed(command: str) -> Any:
    found = _JOB.search(command)
    assert found, command
    schema, check = JOBS[found["job"]]
    given = values_forced(shlex.split(found["settings"]), schema)
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        return check(compose(found["job"], overrides=given))


@pytest.mark.parametrize("command", [*ENTRYPOINTS.values(), *README])
def test_settings_compose_and_parse(command: str) -> None:
    parsed(command)


def test_a_wrong_setting_would_be_found() -> None:
    with pytest.raises(ValueError, match="scale"):
        parsed(f"{ENTRYPOINTS['avs-train']} scale.num_worker=2")


def test_readme_shows_a_job_on_the_laptop_and_on_vms() -> None:
    assert sum(line.startswith(".venv/bin/python jobs/") for line in README) == 2
    assert sum(line.startswith("ray job submit ") for line in README) == 2


@pytest.mark.parametrize("name", ENTRYPOINTS)
def test_job_asks_for_no_more_than_its_cluster_may_have(name: str) -> None:
    manifest = next(one for one in manifests() if one["metadata"]["name"] == name)
    workers = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [w["template"]["spec"]["containers"][0]["resources"]["limits"] for w in workers]
    counts = [w["maxReplicas"] for w in workers]
    num_gpus = sum(int(r.get("nvidia.com/gpu", 0)) * n for r, n in zip(limits, counts, strict=True))
    scale = parsed(ENTRYPOINTS[name]).scale
    assert scale.num_workers * scale.gpus_per_worker <= num_gpus
    assert bool(scale.gpus_per_worker) == bool(num_gpus)
    assert scale.cpus_per_worker <= min(int(r["cpu"]) for r in limits)
    assert scale.autoscaling or not num_gpus  # who needs GPUs waits for them


@pytest.mark.parametrize("path", re.findall(r"\bcluster/[\w.]+", "\n".join(readme_lines())))
def test_files_of_the_commands_are_there(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("line", [one for one in readme_lines() if one.startswith("sed ")])
def test_readme_fills_in_all_that_is_the_users(line: str) -> None:
    command = shlex.split(line.rpartition(" | ")[0])
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    assert not re.findall(r"BUCKET|REGISTRY", done.stdout)
    assert "s3://my-bucket/" in done.stdout


def test_readme_tells_what_each_file_is() -> None:
    table = (CLUSTER / "README.md").read_text().partition("## Files")[2].partition("## ")[0]
    named = set(re.findall(r"`([\w.]+)`", table))
    there = {path.name for path in CLUSTER.iterdir() if path.name != "README.md"}
    assert there - named == set()
