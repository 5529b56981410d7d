"""Run as a script: what a Ray cluster and each of its nodes say, as JSON.

    python cluster_probe.py ADDRESS SECONDS PACKAGES

ADDRESS: auto, HOST:PORT, or http(s)://HOST:8265, where this same text is submitted as a job, so it
imports nothing of this package. SECONDS: for the nodes. PACKAGES: names with commas, whose versions
are asked for. The only module of the doctor that knows Ray.
"""

from __future__ import annotations

import base64
import json
import logging
import platform
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def look(address: str, limit_s: float, packages: list[str]) -> dict[str, Any]:
    """Versions of the cluster, and of each living node what :func:`about_node` tells, or None."""
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    remote = ray.remote(num_cpus=0, max_retries=0)(about_node)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[node["NodeID"]] = remote.options(scheduling_strategy=there).remote(packages)
    done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=limit_s)
    answers = {node_id: _answer(ref) if ref in done else None for node_id, ref in asked.items()}
    mine = about_node(packages)
    # Again for the clock alone: now the workers are there, and an answer takes milliseconds.
    for node in nodes:
        own = answers[node["NodeID"]]
        if own is not None and "error" not in own:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            before_s = time.time()
            theirs_s = ray.get(remote.options(scheduling_strategy=there).remote([]))["time_s"]
            own["behind_s"] = theirs_s - (before_s + time.time()) / 2
            own["unsure_s"] = time.time() - before_s
    return {
        "ray": ray.__version__,
        "mine": mine,
        "nodes": [_node(node, answers[node["NodeID"]]) for node in nodes],
    }


def about_node(packages: list[str]) -> dict[str, Any]:
    """Python, versions of packages (null: not installed), the clock, and room for objects."""
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    worker: Any = ray._private.worker.global_worker
    folder = worker.node.get_session_dir_path()
    disk = shutil.disk_usage(folder)
    shm = Path("/dev/shm")
    return {
        "time_s": time.time(),
        "python": platform.python_version(),
        "packages": versions,
        "spill_folder": folder,
        "spill_free_bytes": disk.free,
        "spill_total_bytes": disk.total,
        "shm_bytes": shutil.disk_usage(shm).total if shm.is_dir() else 0,
    }


def submit(address: str, limit_s: float, packages: list[str], source: str) -> dict[str, Any]:
    """The same from outside: ``source``, this text, as a job on the cluster."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(address)
    text = base64.b64encode(source.encode()).decode()
    run = f"import base64; exec(base64.b64decode('{text}').decode())"
    # Not auto: on a machine of several clusters that finds any of them.
    entrypoint = f'python -c "{run}" "$RAY_ADDRESS" {limit_s} {",".join(packages)}'
    job = client.submit_job(entrypoint=entrypoint)
    until_s = time.monotonic() + limit_s
    status = client.get_job_status(job)
    while not status.is_terminal() and time.monotonic() < until_s:
        time.sleep(0.5)
        status = client.get_job_status(job)
    logs = client.get_job_logs(job)
    if status is not JobStatus.SUCCEEDED:
        client.stop_job(job)
        lines = [line for line in logs.strip().splitlines() if "Error" in line or "Fail" in line]
        raise RuntimeError(f"a job was {status.value}: {(lines or ['it did not say why'])[-1]}")
    client.delete_job(job)
    found: dict[str, Any] = json.loads(
        [line for line in logs.splitlines() if line.startswith('{"ray"')][-1]
    )
    return found


def _answer(ref: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = ray.get(ref)
    except Exception as error:  # a node that cannot start a worker, whatever keeps it from that
        return {"error": str(error).strip().splitlines()[-1]}
    return found


def _node(node: dict[str, Any], answer: dict[str, Any] | None) -> dict[str, Any]:
    resources = node["Resources"]
    return {
        "host": node["NodeManagerHostname"],
        "address": node["NodeManagerAddress"],
        "cpus": resources.get("CPU", 0),
        "gpus": resources.get("GPU", 0),
        "store_bytes": resources.get("object_store_memory", 0),
        "answer": answer,
    }


if __name__ == "__main__":
    given, seconds, names = sys.argv[1], float(sys.argv[2]), sys.argv[3].split(",")
    if given.startswith(("http://", "https://")):
        print(json.dumps(submit(given, seconds, names, Path(__file__).read_text())))
    else:
        print(json.dumps(look(given, seconds, names)))
