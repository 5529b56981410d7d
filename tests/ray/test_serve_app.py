"""The service as Serve deploys it from cluster/serve.yaml, behind one real proxy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ServeDeploySchema
from serving_service import free_port

from avs.serving import service
from avs.serving.parts import APP_NAME

ROOT = Path(__file__).parents[2]
TOKEN = "of-this-test"
START_TIMEOUT_S = 300.0


def deploy_schema(checkpoint: Path, scratch: Path, **args: Any) -> dict[str, Any]:
    """cluster/serve.yaml for this machine; ``args`` change those of the application."""
    plain: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    plain["proxy_location"] = "HeadOnly"
    plain["http_options"] = {"host": "127.0.0.1", "port": free_port()}
    [app] = plain["applications"]
    app["args"] |= {
        "checkpoint": str(checkpoint),
        "scratch": str(scratch),
        "scale": {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0},
        "decoders": 1,
        "decoder_cpus": 0.2,
        **args,
    }
    app["runtime_env"] = {"env_vars": {"AVS_API_TOKENS": TOKEN}}
    return plain


def deployed(plain: dict[str, Any]) -> tuple[ApplicationStatus, str]:
    """Deploy and wait until it runs or cannot; the status with the reason."""
    schema = ServeDeploySchema.model_validate(plain)
    serve.start(http_options=plain["http_options"], proxy_location=schema.proxy_location)
    _get_global_client().deploy_apps(schema)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        app = serve.status().applications[APP_NAME]
        if app.status in (ApplicationStatus.RUNNING, ApplicationStatus.DEPLOY_FAILED):
            return app.status, app.message
        assert time.monotonic() < deadline_s, app
        time.sleep(0.2)


@pytest.fixture(autouse=True)
def stopped(ray_cluster: None) -> Iterator[None]:
    yield
    service.stop()


@pytest.mark.timeout(600)
def test_what_is_deployed_is_ready_and_asks_for_a_token(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    plain = deploy_schema(tiny_checkpoint, tmp_path)
    status, message = deployed(plain)
    assert status is ApplicationStatus.RUNNING, message
    url = "http://127.0.0.1:{port}".format(**plain["http_options"])
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/v1/models").status_code == 401
        known = client.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
        named = client.get("/v1/models", headers={"Host": "elsewhere.example.org"})
    assert [model["name"] for model in known.json()["models"]] == ["default"]
    assert named.json()["error"]["code"] == "unknown_host"


@pytest.mark.timeout(600)
def test_a_wrong_key_fails_the_deployment_with_its_cure(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    status, message = deployed(deploy_schema(tiny_checkpoint, tmp_path, decoder=2))
    assert status is ApplicationStatus.DEPLOY_FAILED
    assert "decoder=2 is not known" in message
    assert "Did you mean decoders?" in message
