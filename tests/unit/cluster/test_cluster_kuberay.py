"""The manifests: what KubeRay's own schemas take, and what this platform needs of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import ROOT, containers, groups, manifests, ray_cluster_spec
from jsonschema import Draft202012Validator

SCHEMAS = ROOT.parent / "shared" / "schemas"
PLURALS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
STAGES = ["prepare", "train", "tune", "segment"]
ALL = manifests()
each_manifest = pytest.mark.parametrize("manifest", ALL, ids=lambda m: m["metadata"]["name"])


def closed(schema: Any) -> Any:
    """The schema with unknown keys refused: Kubernetes would drop them without a word."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    is_open = "additionalProperties" in schema or "x-kubernetes-preserve-unknown-fields" in schema
    return inner | {"additionalProperties": False} if is_object and not is_open else inner


def validator(kind: str) -> Draft202012Validator:
    path: Path = SCHEMAS / f"ray.io_{PLURALS[kind]}.yaml"
    if not path.is_file():
        pytest.skip(f"KubeRay's schemas are not at hand: {path.name} is not in shared/schemas")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a megabyte
    definition = yaml.load(path.read_text(), Loader=loader)
    [schema] = [
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    ]
    metadata = {"metadata": {"type": "object"}}  # Kubernetes' own
    return Draft202012Validator(
        closed({**schema, "properties": {**schema["properties"], **metadata}})
        | {"additionalProperties": False}
    )


@pytest.mark.parametrize("kind", PLURALS)
def test_manifests_are_what_kuberay_takes(kind: str) -> None:
    checker = validator(kind)
    of_kind = [one for one in ALL if one["kind"] == kind]
    assert of_kind
    for manifest in of_kind:
        errors = [f"{e.json_path}: {e.message[:200]}" for e in checker.iter_errors(manifest)]
        assert errors == [], manifest["metadata"]["name"]


def test_schema_refuses_a_misspelt_key() -> None:
    checker = validator("RayJob")
    job = next(one for one in ALL if one["kind"] == "RayJob")
    assert not checker.is_valid({**job, "spec": {**job["spec"], "backofLimit": 1}})


def test_there_is_a_cluster_a_service_and_a_job_for_each_stage() -> None:
    assert {one["apiVersion"] for one in ALL} == {"ray.io/v1"}
    jobs = [one for one in ALL if one["kind"] == "RayJob"]
    assert [job["metadata"]["labels"]["stage"] for job in jobs] == STAGES
    assert [job["metadata"]["name"] for job in jobs] == [f"avs-{stage}" for stage in STAGES]
    assert sorted({one["kind"] for one in ALL}) == sorted(PLURALS)


@each_manifest
def test_cluster_asks_for_a_token_and_grows(manifest: dict[str, Any]) -> None:
    spec = ray_cluster_spec(manifest)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["minReplicas"] < group["maxReplicas"]


@each_manifest
def test_pods_have_the_memory_that_they_are_limited_to(manifest: dict[str, Any]) -> None:
    for group, container in zip(groups(manifest), containers(manifest), strict=True):
        resources = container["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shared-mem": "/dev/shm", "spill": "/spill"}
        assert volumes.keys() == mounts.keys()
        store_bytes = int(group["rayStartParams"]["object-store-memory"])
        shm_bytes = int(volumes["shared-mem"]["sizeLimit"].removesuffix("Gi")) << 30
        memory_bytes = int(resources["limits"]["memory"].removesuffix("Gi")) << 30
        assert store_bytes < shm_bytes < memory_bytes / 2
        assert group["rayStartParams"]["object-spilling-directory"] == mounts["spill"]


@each_manifest
def test_pods_run_as_a_plain_user_with_the_cloud_role_and_no_secret(
    manifest: dict[str, Any],
) -> None:
    for group, container in zip(groups(manifest), containers(manifest), strict=True):
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == "avs"
        assert pod["securityContext"]["runAsNonRoot"] is True
        given = {v["name"]: v.get("value") for v in container["env"] if "value" in v}
        assert given == {"RAY_USAGE_STATS_ENABLED": "0", "AWS_DEFAULT_REGION": "us-west-2"}
        assert {port["name"]: port["containerPort"] for port in container["ports"]}[
            "metrics"
        ] == 8080


def test_gpu_work_goes_to_spot_nodes_with_gpus_and_decoding_to_others() -> None:
    kinds = set()
    for manifest in ALL:
        for group in ray_cluster_spec(manifest)["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            limits = pod["containers"][0]["resources"]["limits"]
            has_gpu = "nvidia.com/gpu" in limits
            kinds.add((group["groupName"], has_gpu))
            tolerated = {t["key"] for t in pod.get("tolerations", [])}
            assert has_gpu == ("nvidia.com/gpu" in tolerated)
            assert has_gpu == any("spot" in v for v in pod.get("nodeSelector", {}).values())
    assert kinds == {("decode", False), ("gpu", True)}


def test_jobs_leave_no_cluster_behind_and_are_started_again() -> None:
    for job in (one["spec"] for one in ALL if one["kind"] == "RayJob"):
        assert job["shutdownAfterJobFinishes"] is True
        assert job["ttlSecondsAfterFinished"] > 0
        assert job["backoffLimit"] > 0


def test_only_the_service_gets_its_tokens_and_on_every_pod() -> None:
    for manifest in ALL:
        has = ["AVS_API_TOKENS" in {v["name"] for v in c["env"]} for c in containers(manifest)]
        assert set(has) == {manifest["kind"] == "RayService"}
