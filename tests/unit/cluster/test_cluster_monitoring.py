"""Dashboard and alerts: they read metrics that the code has, and promtool takes and tests them."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import CLUSTER, ROOT, groups, load, manifests

PACKAGE = ROOT / "platform" / "avs"
SOURCES = (PACKAGE / "serving" / "meters.py", PACKAGE / "telemetry" / "meters.py")
# How Ray 2.60 exports each kind (seen on a local Ray), behind `ray_`.
SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
RAYS_OWN = {"ray_running_jobs"}


def declared() -> dict[str, str]:
    """Kind of each metric, by its name in the code; a gauge where the name stands in a table."""
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    texts = [node.value for tree in trees for node in ast.walk(tree) if _is_name(node)]
    kinds = {name: kind for tree in trees for name, kind in _kinds(tree)}
    return {name: kinds.get(name, "Gauge") for name in texts}


def _is_name(node: ast.AST) -> bool:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text and bool(re.fullmatch(r"avs_\w+", node.value))


def _kinds(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Of calls as ``metrics.Counter("avs_x", ...)`` and ``made("Counter", "avs_x")``."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        texts = [one.value for one in call.args if isinstance(one, ast.Constant)]
        for kind in {getattr(call.func, "attr", ""), *texts} & SUFFIXES.keys():
            yield from ((one.value, kind) for one in call.args if _is_name(one))


def exported() -> set[str]:
    return {f"ray_{n}{suffix}" for n, kind in declared().items() for suffix in SUFFIXES[kind]}


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((CLUSTER / "grafana.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    rules = [rule["expr"] for group in load("alerts.yaml")["groups"] for rule in group["rules"]]
    return rules + [target["expr"] for panel in panels() for target in panel["targets"]]


def promtool(*arguments: str, cwd: Path = CLUSTER) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (apt install prometheus)")
    done = subprocess.run(
        [program, *arguments], cwd=cwd, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_code_tells_metrics_of_the_service_of_jobs_and_of_training() -> None:
    found = declared()
    assert {name.split("_")[1] for name in found} >= {"stage", "answered", "job", "train"}
    assert found["avs_stage_seconds"] == found["avs_job_stage_seconds"] == "Histogram"
    assert found["avs_rejected"] == found["avs_job_items"] == "Counter"
    assert found["avs_open_requests"] == found["avs_train_loss"] == "Gauge"


def test_what_is_read_is_what_the_code_tells() -> None:
    read = {name for text in expressions() for name in re.findall(r"\bray_\w+", text)}
    assert read - exported() - RAYS_OWN == set()


def test_dashboard_shows_every_metric() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    assert {name for name in declared() if f"ray_{name}" not in shown} == set()


def test_panels_lie_beside_each_other_and_have_units() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_each_alert_has_a_cure_and_is_tested_firing_and_silent() -> None:
    rules = [rule for group in load("alerts.yaml")["groups"] for rule in group["rules"]]
    cases = [case for test in load("alerts_test.yaml")["tests"] for case in test["alert_rule_test"]]
    for rule in rules:
        assert {"summary", "cure"} == rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("page", "warn")
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fires == {rule["alert"] for rule in rules}


def test_promtool_takes_the_rules_and_their_tests_pass() -> None:
    num_rules = sum(len(group["rules"]) for group in load("alerts.yaml")["groups"])
    assert f"{num_rules} rules found" in promtool("check", "rules", "alerts.yaml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml")


def test_promtool_takes_the_configuration() -> None:
    assert "is valid prometheus config" in promtool("check", "config", "prometheus.yaml")


def test_promtool_takes_every_panel(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{k}", "expr": text.replace("$__rate_interval", "5m")}
        for k, text in enumerate(expressions())
    ]
    (tmp_path / "panels.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]})
    )
    found = promtool("check", "rules", "panels.yaml", cwd=tmp_path)
    assert f"{len(rules)} rules found" in found


def test_what_prometheus_scrapes_keeps_our_label_and_finds_the_port() -> None:
    [scrape] = load("prometheus.yaml")["scrape_configs"]
    [endpoint] = load("podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    assert scrape["honor_labels"] is True
    assert endpoint["honorLabels"] is True
    for manifest in manifests():
        for group in groups(manifest):
            [container] = group["template"]["spec"]["containers"]
            assert endpoint["port"] in {port["name"] for port in container["ports"]}
