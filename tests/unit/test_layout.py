"""Guards of the layout: what a change elsewhere could break without any other test failing."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import avs
from avs.config import parse
from avs.overrides import compose_as
from avs.training import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "platform" / "avs"
CONFIGS = ROOT / "configs"
MODULES = sorted(PACKAGE.rglob("*.py"))
GROUPS = sorted(p.name for p in CONFIGS.iterdir() if p.is_dir())
ROOT_CONFIGS = sorted(p.stem for p in CONFIGS.glob("*.yaml"))

# Which parts know Ray: everything else runs and is measured on machines without it.
RAY_ALLOWED = (
    "benchmark/bare_start.py",
    "benchmark/serve_graph.py",
    "doctor/cluster_probe.py",
    "prepare/",
    "training/distributed.py",
    "training/ray_backend.py",
    "training/ray_feed.py",
    "training/resources.py",
    "tuning/",
    "inference/bucket/pipeline.py",
    "inference/bucket/run.py",
    "inference/pool.py",
    "serving/",
    "telemetry/meters.py",
)

# A root config and the dataclass that its job parses it with. A new job adds a line.
SCHEMAS = {
    "prepare": "avs.prepare:PrepareConfig",
    "train": "avs.training:TrainConfig",
    "import_official": "avs.training.official_checkpoint:ImportConfig",
    "evaluate": "avs.inference.config:EvaluateConfig",
    "segment": "avs.inference.config:SegmentConfig",
    "tune": "avs.tuning.config:TuneConfig",
    "study": "avs.tuning.study_config:StudyConfig",
    "serve": "avs.serving.config:ServeConfig",
    "demo": "avs.demo.config:DemoConfig",
    "benchmark": "avs.benchmark.config:BenchmarkConfig",
    "doctor": "avs.doctor.config:DoctorConfig",
}

# Made for one choice of data and model: only the defaults are composed.
ONE_RUN = ("demo",)

# Split up so that this file does not match itself.
FORBIDDEN = {
    "an absolute path of a machine": re.compile(
        r"(?<![\w.}])/(?:home|root|Users|" + r"work)/[\w.]"
    ),
    "a package index address": re.compile(r"(?:extra-)?index" + r"-url|find" + r"-links"),
}


@pytest.mark.parametrize("folder", ["platform", "tests", "tests/ray"])
def test_folder_named_like_a_module_is_not_a_package(folder: str) -> None:
    path = ROOT / folder / "__init__.py"
    assert not path.exists(), f"{path} would shadow the real {folder.rpartition('/')[2]}"


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == avs.__version__


def test_lock_pins_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[=<>~! ]", line)[0].lower() for line in wanted}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    assert sorted(names - pinned) == [], "run: make lock"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_ray_is_imported_only_where_it_is_allowed() -> None:
    found = [str(p.relative_to(PACKAGE)) for p in MODULES if _imports_ray(p)]
    assert [name for name in found if not name.startswith(RAY_ALLOWED)] == []


@pytest.mark.parametrize("what", FORBIDDEN)
def test_text_files_do_not_name(what: str) -> None:
    hits = []
    for path in _project_files():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, start=1):
            if FORBIDDEN[what].search(line):
                hits.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert hits == []


def test_every_root_config_has_a_schema_and_a_job() -> None:
    missing = [name for name in ROOT_CONFIGS if name not in SCHEMAS]
    assert missing == [], f"add {missing} to SCHEMAS in {__file__}"
    assert [name for name in ROOT_CONFIGS if not (ROOT / "jobs" / f"{name}.py").exists()] == []


def _choices() -> list[Any]:
    """Each root config as it stands, and with each option of each of its groups."""
    cases = []
    for name in ROOT_CONFIGS:
        cases.append(pytest.param(name, [], id=name))
        defaults = OmegaConf.load(CONFIGS / f"{name}.yaml").get("defaults", [])
        used = [g for item in defaults if OmegaConf.is_dict(item) for g in item]
        known = [group for group in used if group.partition("@")[0] in GROUPS]
        for group in () if name in ONE_RUN else known:
            folder = CONFIGS / group.partition("@")[0]
            for option in sorted(p.stem for p in folder.glob("*.yaml")):
                case = pytest.param(name, [f"{group}={option}"], id=f"{name} {group}={option}")
                cases.append(case)
    return cases


@pytest.mark.parametrize(("name", "choice"), _choices())
def test_every_yaml_composes_and_parses(name: str, choice: list[str]) -> None:
    module, _, schema = SCHEMAS[name].partition(":")
    groups = [i for i in OmegaConf.load(CONFIGS / f"{name}.yaml").defaults if OmegaConf.is_dict(i)]
    unmade = [group for item in groups for group in item if OmegaConf.is_missing(item, group)]
    given = [f"{group}=s4" for group in unmade if not choice or group not in choice[0]]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose(name, overrides=choice + given)
    OmegaConf.set_struct(config, False)
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, {"tests": {"dummy": "dummy"}}.get(key, "dummy"))
    parse(config, getattr(importlib.import_module(module), schema))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("study/*.yaml")), ids=lambda p: p.stem)
def test_every_variant_of_a_study_is_a_training(path: Path) -> None:
    study: Any = OmegaConf.to_container(OmegaConf.load(path))
    folders = ["data.prepared=dummy", "out=dummy"]
    for own in study["variants"].values():
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
            compose_as(TrainConfig, "train", [*folders, *study["overrides"], *own], key=path.stem)


def test_every_group_is_used_by_a_root_config() -> None:
    used = {re.split("[@=]", item)[0] for case in _choices() for item in case.values[1]}
    assert [group for group in GROUPS if group not in used] == []


def _imports_ray(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
        if any(name.split(".")[0] == "ray" for name in names):
            return True
    return False


def _project_files() -> list[Path]:
    """What git tracks or would track; in a plain copy without .git, every file beside .venv."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    if done.returncode:
        return [p for p in sorted(ROOT.rglob("*")) if p.is_file() and ".venv" not in p.parts]
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
