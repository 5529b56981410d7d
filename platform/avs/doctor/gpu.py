"""The GPUs: driver, CUDA, a product in bfloat16, and NCCL between processes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avs.doctor.finding import Finding, fail, ok, skip
from avs.doctor.probing import ProbeError, start_probe

__all__ = ["all_reduce", "driver", "judge_gpus", "look_at_gpus"]

_MAX_ERROR = 0.01


def look_at_gpus(*, limit_s: float) -> Sequence[Finding]:
    """All of this module; of a machine without a GPU a line that says so."""
    version = driver()
    try:
        found = start_probe("gpu_probe.py", ["look"]).answer(limit_s=limit_s)
    except ProbeError as error:
        cure = "see nvidia-smi and dmesg; a GPU that hangs needs a reset or a restart of the node"
        return [fail("GPU", f"PyTorch cannot use it: {error}", cure)]
    findings = judge_gpus(found, version)
    num_gpus = len(found["gpus"])
    if num_gpus and all(f.cure == "" for f in findings):
        findings.append(_nccl(found["nccl"], num_gpus, limit_s=limit_s))
    return findings


def judge_gpus(found: dict[str, Any], version: str) -> list[Finding]:
    """What the answer of the probe means. version: of the driver, empty where there is none."""
    gpus = found["gpus"]
    if not gpus and not version:
        return [skip("GPU", f"none here (torch {found['torch']}); jobs run on CPUs")]
    if not gpus and not found["cuda"]:
        cure = "install the build of PyTorch for CUDA: make setup"
        return [fail("GPU", f"driver {version}, but torch {found['torch']} is for CPUs", cure)]
    if not gpus:
        cure = (
            "install a newer driver, give the container its GPUs (docker --gpus all), "
            "see CUDA_VISIBLE_DEVICES"
        )
        told = f"driver {version or 'missing'}, torch is for CUDA {found['cuda']} and sees no GPU"
        return [fail("GPU", told, cure)]
    findings = []
    for index, gpu in enumerate(gpus):
        told = f"{gpu['name']}, {gpu['memory_bytes'] / 1e9:.0f} GB, driver {version}"
        told += f", CUDA {found['cuda']}"
        if gpu["error"] > _MAX_ERROR:
            cure = "the GPU computes wrongly: see nvidia-smi -q -d ECC, and take it out of use"
            findings.append(fail(f"GPU {index}", f"{told}: a product is {gpu['error']} off", cure))
        else:
            findings.append(ok(f"GPU {index}", f"{told}, bfloat16 product right"))
    return findings


def driver() -> str:
    """Version of NVIDIA's driver, empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if lines and done.returncode == 0 else ""


def all_reduce(backend: str, size: int, *, limit_s: float) -> float:
    """The sum that ``size`` processes agree on: 1 + 2 + ... + size.

    Raises:
        ProbeError: one of them failed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="avs-") as folder:
        uri = Path(folder, "meeting").as_uri()
        probes = [
            start_probe("gpu_probe.py", ["reduce", backend, str(rank), str(size), uri])
            for rank in range(size)
        ]
        answers, failed = [], ""
        for probe in probes:
            try:
                answers.append(probe.answer(limit_s=1.0 if failed else limit_s)["sum"])
            except ProbeError as error:
                failed = failed or str(error)
        if failed:
            raise ProbeError(failed)
    return float(answers[0]) if len(set(answers)) == 1 else float("nan")


def _nccl(version: str, num_gpus: int, *, limit_s: float) -> Finding:
    size = min(2, num_gpus)
    try:
        total = all_reduce("nccl", size, limit_s=limit_s)
    except ProbeError as error:
        cure = "run the job with NCCL_DEBUG=INFO; in a container give more /dev/shm (--shm-size)"
        return fail("NCCL", f"{version}: all_reduce of {size} failed: {error}", cure)
    if total != size * (size + 1) / 2:
        cure = "see nvidia-smi topo -m, and try NCCL_P2P_DISABLE=1"
        return fail("NCCL", f"{version}: all_reduce of {size} gave {total}", cure)
    return ok("NCCL", f"{version}, all_reduce of {size} process{'es' if size > 1 else ''} right")
