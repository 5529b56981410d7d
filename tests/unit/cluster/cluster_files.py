"""What lies in cluster/, read as those read it who use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
RAY_UP = ("aws.yaml", "gcp.yaml")
KUBERAY = ("raycluster.yaml", "rayjob.yaml", "rayservice.yaml")


def load(name: str) -> Any:
    """A YAML file of one document."""
    return yaml.safe_load((CLUSTER / name).read_text())


def manifests() -> list[dict[str, Any]]:
    """All documents for KubeRay."""
    return [one for name in KUBERAY for one in yaml.safe_load_all((CLUSTER / name).read_text())]


def ray_cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    """The RayCluster inside any of them."""
    spec: dict[str, Any] = manifest["spec"]
    inner: dict[str, Any] = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return inner


def groups(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Its head and its workers."""
    spec = ray_cluster_spec(manifest)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The Ray container of each group."""
    found = []
    for group in groups(manifest):
        [container] = group["template"]["spec"]["containers"]
        found.append(container)
    return found


def locked() -> dict[str, str]:
    """Versions of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def readme_lines() -> Iterator[str]:
    """Commands of the README's code blocks."""
    blocks = re.findall(r"^```\n(.*?)^```", (CLUSTER / "README.md").read_text(), re.M | re.S)
    for block in blocks:
        yield from block.splitlines()
