"""The Serve configuration: Serve's schema, the keys of configs/serve.yaml, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from cluster_files import CLUSTER, ROOT, containers, load, manifests
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from ray.serve.schema import ServeDeploySchema

from avs.config import parse
from avs.errors import ConfigError
from avs.serving import serve_app
from avs.serving.config import ServeConfig
from avs.serving.parts import APP_NAME

SERVICE = next(one for one in manifests() if one["kind"] == "RayService")
# What is different on a cluster; all else stands as in configs/.
OWN = {
    *("checkpoint", "host", "scratch", "decoders", "decoder_cpus", "min_segmenters"),
    *("scale.num_workers", "scale.autoscaling", "access.allowed_hosts"),
}


def arguments(**changes: Any) -> dict[str, Any]:
    args: dict[str, Any] = load("serve.yaml")["applications"][0]["args"]
    return args | changes


def flat(config: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            found |= {f"{key}.{inner}": v for inner, v in flat(value).items()}
        else:
            found[key] = value
    return found


def test_serve_takes_it() -> None:
    schema = ServeDeploySchema.model_validate(load("serve.yaml"))
    [app] = schema.applications
    assert (app.name, app.route_prefix) == (APP_NAME, "/")
    module, _, name = (app.import_path or "").partition(":")
    assert module == serve_app.__name__
    assert name in serve_app.__all__


def test_arguments_are_those_of_the_job_but_for_what_a_cluster_needs() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        usual = OmegaConf.to_container(compose("serve", overrides=["scale=cluster"]))
    assert isinstance(usual, dict)
    theirs, ours = flat({str(k): v for k, v in usual.items()}), flat(arguments())
    assert theirs.keys() == ours.keys()
    assert {key for key in ours if ours[key] != theirs[key]} == OWN


def test_address_is_the_one_that_serve_listens_on() -> None:
    config = parse(arguments(), ServeConfig)
    assert load("serve.yaml")["http_options"] == {"host": config.host, "port": config.port}


def test_rayservice_holds_the_same_configuration() -> None:
    assert yaml.safe_load(SERVICE["spec"]["serveConfigV2"]) == load("serve.yaml")
    for container in containers(SERVICE):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["serve"] == arguments()["port"]


def test_rayservice_answers_to_the_name_of_its_kubernetes_service() -> None:
    name = f"{SERVICE['metadata']['name']}-serve-svc"
    assert name in arguments()["access"]["allowed_hosts"]
    assert f"`{name}`" in (CLUSTER / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scratch": None}, r"scratch=null: .* give an s3:// prefix or a shared folder"),
        ({"reload_s": 60}, r"reload_s=60: .* deploy again"),
        ({"decoder": 2}, r"decoder=2 is not known\. .* Did you mean decoders\?"),
        ({}, r"host=0\.0\.0\.0 can be reached from other machines: set AVS_API_TOKENS"),
    ],
)
def test_what_cannot_work_is_told_before_a_checkpoint_is_read(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AVS_API_TOKENS", raising=False)
    with pytest.raises(ConfigError, match=message):
        serve_app.build(arguments(**changes))
