"""A Ray cluster: whether it answers, who may use it, and whether its nodes are alike."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from avs.doctor.finding import Finding, fail, ok, skip, warn
from avs.doctor.probing import ProbeError, start_probe
from avs.doctor.storage_checks import judge_clock

__all__ = ["judge_cluster", "look_at_authentication", "look_at_cluster", "package_versions"]

_MIN_SPILL_BYTES = 10e9
_FULL_SHARE = 0.95
_PROBE = "cluster_probe.py"


def look_at_cluster(address: str | None, *, limit_s: float) -> Sequence[Finding]:
    """The authentication, and the cluster at ``address`` or RAY_ADDRESS."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    versions = package_versions()
    findings = [look_at_authentication(os.environ)]
    if address is None:
        told = f"no address; Ray {versions.get('ray')} is installed and jobs start their own here"
        return [*findings, skip("Ray", told, "address=auto or http://HOST:8265 looks at one")]
    # Two thirds for the nodes: so that of a cluster of which one hangs, the others are told.
    given = [address, str(limit_s * 0.6), ",".join(versions)]
    try:
        found = start_probe(_PROBE, given).answer(limit_s=limit_s)
    except ProbeError as error:
        return [*findings, _no_answer(address, str(error), error.printed)]
    return [*findings, *judge_cluster(found, versions, address=address)]


def look_at_authentication(environ: Mapping[str, str]) -> Finding:
    """Which mode Ray takes, and whether there is a token where it needs one."""
    mode = environ.get("RAY_AUTH_MODE") or ""
    if mode not in ("", "token", "disabled"):
        return fail("Ray auth", f"RAY_AUTH_MODE={mode} is not known", "token or disabled")
    where = _token_place(environ)
    if mode == "disabled":
        return ok("Ray auth", "off (RAY_AUTH_MODE=disabled): keep the ports from others")
    if mode == "token" and not where:
        cure = (
            "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token, or make one: "
            "ray get-auth-token --generate"
        )
        return fail("Ray auth", "RAY_AUTH_MODE=token, and there is no token", cure)
    if mode == "token":
        return ok("Ray auth", f"token, from {where}")
    told = "RAY_AUTH_MODE is not set"
    return ok("Ray auth", f"{told}; a token lies in {where}" if where else f"{told}, no token")


def package_versions() -> dict[str, str]:
    """Installed versions of what avs needs, by name, and of avs."""
    try:
        needed = ["avs", *(Requirement(r).name for r in metadata.requires("avs") or ())]
    except metadata.PackageNotFoundError:
        needed = ["ray", "torch", "numpy", "pyarrow"]
    found = {}
    for name in dict.fromkeys(needed):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def judge_cluster(
    found: Mapping[str, Any], versions: Mapping[str, str], *, address: str
) -> list[Finding]:
    """What the answer of the probe means, beside the ``versions`` of this machine."""
    nodes = found["nodes"]
    cpus, gpus = sum(node["cpus"] for node in nodes), sum(node["gpus"] for node in nodes)
    told = f"{address}: Ray {found['ray']}, {len(nodes)} nodes, {cpus:g} CPUs, {gpus:g} GPUs"
    findings = [ok("Ray", told)]
    for node in nodes:
        name, answer = f"node {node['host']}", node["answer"]
        if answer is None or "error" in answer:
            why = "did not answer" if answer is None else answer["error"]
            cure = f"see ray status and the logs of {node['address']}; restart Ray there"
            findings.append(fail(name, f"{node['address']} {why}", cure))
            continue
        findings.append(_room(name, node, answer))
        findings.append(_versions(name, answer, versions))
        if answer["unsure_s"] < 1.0:
            other = f"{node['host']}, as it looks from the driver"
            findings.append(judge_clock(name, answer["behind_s"], other=other))
        else:
            findings.append(skip(name, f"its clock: an answer took {answer['unsure_s']:.1f} s"))
    return findings


def _room(name: str, node: Mapping[str, Any], answer: Mapping[str, Any]) -> Finding:
    """Whether objects fit into shared memory, and what is too much onto the disk."""
    store, shm = node["store_bytes"], answer["shm_bytes"]
    free, total = answer["spill_free_bytes"], answer["spill_total_bytes"]
    told = (
        f"{node['cpus']:g} CPUs, {node['gpus']:g} GPUs, object store {_gb(store)}, "
        f"spills to {answer['spill_folder']} with {_gb(free)} free"
    )
    if store > shm:
        cure = "give the container a larger /dev/shm (--shm-size), or --object-store-memory less"
        return warn(name, f"{told}; /dev/shm has only {_gb(shm)}", cure)
    if free < _MIN_SPILL_BYTES or free < (1 - _FULL_SHARE) * total:
        cure = "free some, or ray start --temp-dir on a larger disk"
        return warn(name, f"{told}; Ray stops spilling at {_FULL_SHARE:.0%}", cure)
    return ok(name, told)


def _versions(name: str, answer: Mapping[str, Any], mine: Mapping[str, str]) -> Finding:
    theirs = {"Python": answer["python"], **answer["packages"]}
    # avs itself comes with a job's runtime environment where the node does not have it.
    wrong = [
        f"{package} {theirs.get(package) or 'missing'} (here {version})"
        for package, version in {"Python": platform.python_version(), **mine}.items()
        if theirs.get(package) != version and not (package == "avs" and not theirs.get("avs"))
    ]
    if wrong:
        cure = "start all nodes from one image (cluster/Dockerfile) or one requirements.txt"
        return fail(name, ", ".join(wrong), cure)
    return ok(name, f"Python {theirs['Python']} and {len(mine)} packages are those of here")


def _no_answer(address: str, why: str, printed: str) -> Finding:
    cure = "see whether it runs there (ray status), and whether the port is open from here"
    low = printed.lower()
    if "version mismatch" in low:
        cure = "use the cluster's versions of Ray and Python here, or start it with these"
    elif "authent" in low or "401" in low or "token" in low:
        why = f"it wants another token: {why}"
        cure = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or _PATH) to the cluster's token"
    return fail("Ray", f"{address}: {why}", cure)


def _token_place(environ: Mapping[str, str]) -> str:
    """Where Ray would find a token, in its own order; empty where there is none."""
    if environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    given = environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else Path(environ.get("HOME", "~"), ".ray/auth_token").expanduser()
    is_there = path.is_file() and bool(path.read_text().strip())
    return str(path) if is_there else ""


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
