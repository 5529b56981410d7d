"""The clusters of VMs: Ray's schema, with its defaults merged in, and what must hold beside it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from cluster_files import CLUSTER, RAY_UP, ROOT, load
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

PROVIDERS = {"aws.yaml": "aws", "gcp.yaml": "gcp"}
each_file = pytest.mark.parametrize("name", RAY_UP)


@each_file
def test_ray_takes_it(name: str) -> None:
    filled = prepare_config(load(name))
    validate_config(filled)
    assert filled["provider"]["type"] == PROVIDERS[name]
    wrong = copy.deepcopy(filled)
    wrong["idle_timeout_minute"] = 5
    with pytest.raises(ValidationError, match="idle_timeout_minute"):
        validate_config(wrong)


@each_file
def test_nodes_grow_from_few_to_many_and_gpus_are_on_spot(name: str) -> None:
    config = load(name)
    types: dict[str, Any] = config["available_node_types"]
    assert (config["head_node_type"], *types) == ("head", "head", "decode", "gpu")
    assert types["head"]["resources"] == {"CPU": 0}
    assert "GPU" not in types["decode"]["resources"]
    assert types["gpu"]["resources"]["GPU"] >= 1
    workers = [types["decode"], types["gpu"]]
    assert all(0 == one["min_workers"] < one["max_workers"] for one in workers)
    assert config["max_workers"] == sum(one["max_workers"] for one in workers)
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert [_is_spot(one["node_config"]) for one in types.values()] == [False, False, True]


def _is_spot(node: dict[str, Any]) -> bool:
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    model = node.get("scheduling", {}).get("provisioningModel")
    return market == "spot" or model == "SPOT"


@each_file
def test_token_is_a_file_and_no_secret_stands_in_it(name: str) -> None:
    config = load(name)
    options = config["docker"]["run_options"]
    env = dict(o.removeprefix("-e ").split("=", 1) for o in options if o.startswith("-e "))
    assert env["RAY_AUTH_MODE"] == "token"
    assert config["file_mounts"][env["RAY_AUTH_TOKEN_PATH"]] == "~/.ray/auth_token"
    text = (CLUSTER / name).read_text()
    for secret in ("RAY_AUTH_TOKEN=", "AVS_API_TOKENS", "ACCESS_KEY", "PRIVATE KEY", "credentials"):
        assert secret not in text


@each_file
def test_what_is_copied_is_there_and_makes_avs_importable(name: str) -> None:
    config = load(name)
    mounts = config["file_mounts"]
    own = {remote: local for remote, local in mounts.items() if not local.startswith("~")}
    assert all((ROOT / local).exists() for local in own.values())
    [path] = [
        o.partition("PYTHONPATH=")[2] for o in config["docker"]["run_options"] if "PYTHON" in o
    ]
    assert (ROOT / own[path] / "avs" / "__init__.py").is_file()
    [command] = config["setup_commands"]
    assert own[command.rpartition(" ")[2]] == "requirements.txt"


@each_file
def test_workers_reach_data_by_role_and_not_by_key(name: str) -> None:
    types = load(name)["available_node_types"]
    for node in (types["decode"]["node_config"], types["gpu"]["node_config"]):
        if name == "aws.yaml":
            assert node["IamInstanceProfile"] == {"Name": "avs-worker"}
            assert node["MetadataOptions"]["HttpTokens"] == "required"
        else:
            [account] = node["serviceAccounts"]
            assert account["email"].startswith("avs-worker@PROJECT.")


@each_file
def test_ray_spills_to_the_disk_and_tells_its_metrics_on_one_port(name: str) -> None:
    config = load(name)
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, start = config[key]
        assert stop == "ray stop"
        assert "--object-spilling-directory=/tmp/ray/spill" in start
        assert "--metrics-export-port=8080" in start
        assert ("--autoscaling-config" in start) == (key == "head_start_ray_commands")
