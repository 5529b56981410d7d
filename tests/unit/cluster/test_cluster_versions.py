"""One version of everything: requirements.txt says which, all others follow."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from cluster_files import (
    CLUSTER,
    RAY_UP,
    ROOT,
    containers,
    load,
    locked,
    manifests,
    ray_cluster_spec,
)

LOCKED = locked()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def python_version() -> str:
    """As 3.11."""
    found = re.fullmatch(r">=(3\.\d+),<3\.\d+", PROJECT["requires-python"])
    assert found
    return found[1]


@pytest.mark.parametrize("package", ["ray", "torch", "torchaudio", "torchvision"])
def test_project_asks_for_what_is_locked(package: str) -> None:
    [wanted] = [
        line.partition("==")[2]
        for line in PROJECT["dependencies"]
        if re.fullmatch(rf"{package}(\[.*\])?==.*", line)
    ]
    assert LOCKED[package].startswith(wanted.removesuffix("*"))


def test_manifests_say_the_locked_ray_and_the_image_of_this_version() -> None:
    for manifest in manifests():
        assert ray_cluster_spec(manifest)["rayVersion"] == LOCKED["ray"]
        images = {container["image"] for container in containers(manifest)}
        assert images == {f"REGISTRY/avs:{PROJECT['version']}"}


@pytest.mark.parametrize("name", RAY_UP)
def test_vms_run_the_locked_ray_on_the_same_python(name: str) -> None:
    python = "py" + python_version().replace(".", "")
    assert load(name)["docker"]["image"] == f"rayproject/ray:{LOCKED['ray']}-{python}"


def test_image_has_the_same_python_and_the_lock() -> None:
    assert re.search(rf"^FROM python:{re.escape(python_version())}-slim-\w+$", DOCKERFILE, re.M)
    assert (
        "pip install --no-cache-dir --disable-pip-version-check -r requirements.txt" in DOCKERFILE
    )


def test_texts_name_no_other_version() -> None:
    cuda = LOCKED["cuda-toolkit"].partition(".")[0]
    for path in CLUSTER.iterdir():
        text = path.read_text()
        assert set(re.findall(r"avs:(\d+\.\d+\.\d+)", text)) <= {PROJECT["version"]}, path
        assert set(re.findall(r"rayproject/ray:([\d.]+)", text)) <= {LOCKED["ray"]}, path
        assert set(re.findall(r"CUDA (\d+)", text)) <= {cuda}, path
        assert set(re.findall(r"torch==(\S+)", text)) <= {LOCKED["torch"]}, path
