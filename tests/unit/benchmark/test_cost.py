"""The cost table: every model at its published sizes, with its own objective, side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from stage_config import stage_config

from avs.benchmark import BenchmarkConfig, cost, models
from avs.benchmark.cost import CLIPS_OF_A_STEP, NUM_FRAMES, run_cost
from avs.benchmark.models import benchmark_models
from avs.benchmark.models_child import measure
from avs.benchmark.process import KilledError
from avs.benchmark.recipe import read_recipe
from avs.benchmark.spec import Form, Spec, Work
from avs.errors import ConfigError
from avs.models import MODELS

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def _spec(name: str, work: Work, **changes: Any) -> Spec:
    recipe = read_recipe(name, configs=CONFIGS)
    spec = Spec(
        form=Form.AVS,
        model=name,
        work=work,
        backbone="test_resnet",
        options={**recipe.options, "fusion_width": 16},
        loss=recipe.loss,
        audio_dim=recipe.audio_dim,
        num_clips=CLIPS_OF_A_STEP,
        num_frames=1,
        size_px=64,
        num_threads=1,
    )
    return replace(spec, **changes)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_is_counted_run_and_trained_with_its_recipe(name: str) -> None:
    counted = measure(_spec(name, Work.COUNT))
    assert counted["parameters"] > 1e5
    assert counted["flops"] > 1e7
    for work in (Work.FORWARD, Work.STEP):
        figures = measure(_spec(name, work))
        assert figures["seconds"] > 0.0
        assert math.isfinite(figures["value"])


def test_a_step_is_that_of_the_models_own_objective() -> None:
    with pytest.raises(ConfigError, match="contrastive loss of ccformer"):
        measure(_spec("ccformer", Work.STEP, num_clips=1))
    plain, twice = (
        measure(_spec("tpavi", Work.STEP, loss={"dice_weight": weight}))["value"]
        for weight in (0.0, 1.0)
    )
    assert 0.2 < twice - plain < 1.0  # soft Dice lies below 1


@pytest.mark.parametrize("name", sorted(MODELS))
def test_sizes_are_those_of_the_models_yaml(name: str, tmp_path: Path) -> None:
    plain = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text())
    options = read_recipe(name, configs=CONFIGS).options
    assert plain["model"]["options"].items() <= options.items()
    plain["model"]["options"] = {"drop_path": 0.25}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / f"{name}.yaml").write_text(yaml.safe_dump(plain))
    assert read_recipe(name, configs=tmp_path).options["drop_path"] == 0.25


def test_the_sound_is_as_wide_as_that_of_the_yamls_audio_network() -> None:
    widths = {"tpavi": 128, "avsc": 768}  # VGGish, BEATs
    for name, width in widths.items():
        recipe = read_recipe(name, configs=CONFIGS)
        assert recipe.audio_dim == recipe.options["audio_dim"] == width


def test_a_yaml_without_losses_is_trained_by_the_defaults() -> None:
    assert dict(read_recipe("tpavi", configs=CONFIGS).loss) == {}
    assert read_recipe("c3n", configs=CONFIGS).loss == {"dice_weight": 1.0, "dice_form": "c3n"}


def test_a_model_without_yaml_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model/avsc.yaml is missing.*models.cost_models"):
        read_recipe("avsc", configs=tmp_path)


class Children:
    """Stands for the child processes: takes note of their specs and makes up their figures."""

    def __init__(self, *, killed: Work | None = None) -> None:
        self.specs: list[Spec] = []
        self.killed = killed

    def __call__(self, command: Sequence[str], *, num_threads: int) -> dict[str, float]:
        spec = Spec.from_json(command[-1])
        assert num_threads == spec.num_threads
        self.specs.append(spec)
        if spec.work is Work.COUNT:
            return {"parameters": 1.5e6, "flops": 3.2e9}
        if spec.work is self.killed and spec.model == "avsc":
            raise KilledError("killed")
        slow = 2.0 if spec.work is Work.STEP else 1.0
        num_before = sum(s == spec for s in self.specs) - 1
        return {"seconds": slow * (1.0 + num_before), "peak_mb": 100.0 * slow}


def _table(out: Path, monkeypatch: pytest.MonkeyPatch, children: Children) -> str:
    monkeypatch.setattr(cost, "run_reporting", children)
    benchmark_models(_config(out), configs=CONFIGS, say=lambda _: None)
    return (out / "cost.md").read_text()


def _config(out: Path, **changes: Any) -> BenchmarkConfig:
    return stage_config(
        out, repeats=3, cost=True, cases=[], **{"backbones": ["resnet50", "resnet18"], **changes}
    )


def test_the_table_has_a_row_for_every_model_and_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children()
    text = _table(tmp_path, monkeypatch, children)
    row = " 1.5 | 3 | 2.00 (1.00 to 3.00) | 100 | 4.00 (2.00 to 6.00) | 200 |"
    rows = [line for line in text.splitlines() if line.endswith(row)]
    assert [tuple(line.split(" | ")[:2]) for line in rows] == [
        (f"| {name}", backbone) for name in MODELS for backbone in ("resnet50", "resnet18")
    ]
    assert "multiply-add counts as 2" in text
    assert "without the audio network" in text
    assert "num_cores" in text
    whole = (tmp_path / "benchmark.md").read_text()
    assert rows[0] in whole
    plain = json.loads((tmp_path / "benchmark.json").read_text())["cost"]
    assert plain["counts"]["c3n resnet18"] == {"parameters": 1.5e6, "flops": 3.2e9}
    assert [r["step_seconds"] for r in plain["repeats"]["c3n resnet18"]] == [2.0, 4.0, 6.0]


def test_contenders_take_turns_and_steps_hold_two_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children()
    _table(tmp_path, monkeypatch, children)
    timed = [spec for spec in children.specs if spec.work is not Work.COUNT]
    assert len(children.specs) - len(timed) == 2 * len(MODELS)  # counted once
    firsts = [(timed[i].model, timed[i].backbone) for i in range(0, len(timed), 4 * len(MODELS))]
    assert firsts == [("tpavi", "resnet50"), ("tpavi", "resnet18"), ("c3n", "resnet50")]
    assert {s.num_clips for s in timed if s.work is Work.STEP} == {2}
    assert {s.num_clips for s in timed if s.work is Work.FORWARD} == {1}
    assert {(s.num_frames, s.size_px) for s in timed} == {(NUM_FRAMES, 64)}


def test_a_step_that_the_kernel_ends_leaves_the_rest_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(killed=Work.STEP)
    text = _table(tmp_path, monkeypatch, children)
    assert "| avsc | resnet50 | 1.5 | 3 | 2.00 (1.00 to 3.00) | 100 | - | - |" in text
    assert "avsc resnet50 step: killed, too little memory" in text
    tried = [s for s in children.specs if s.model == "avsc" and s.work is Work.STEP]
    assert len(tried) == 2  # once a backbone, not again in each repeat


def test_only_some_models_and_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "run_reporting", Children())
    runs = run_cost(_config(tmp_path, cost_models=["c3n"]), configs=CONFIGS, say=lambda _: None)
    assert {model for model, _ in runs.counts} == {"c3n"}
    monkeypatch.setattr(models, "run_cases", lambda *_, **__: pytest.fail("measured before"))
    with pytest.raises(ConfigError, match=r"models.cost_models=c3m .*tpavi.*Did you mean c3n"):
        benchmark_models(_config(tmp_path, cost_models=["c3m"]), configs=CONFIGS)


@pytest.mark.parametrize("key", ["backbones", "cost_models"])
def test_a_table_of_nothing_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"models.{key}=\[\].*models.cost=false"):
        _config(tmp_path, **{key: []})


def test_a_quick_table_is_of_a_tiny_backbone_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children()
    monkeypatch.setattr(cost, "run_reporting", children)
    config = replace(_config(tmp_path), quick=True)
    benchmark_models(config, configs=CONFIGS, say=lambda _: None)
    assert {(s.backbone, s.size_px) for s in children.specs} == {("test_resnet", 64)}
    assert len(children.specs) == 3 * len(MODELS)
    assert "figures say nothing" in (tmp_path / "cost.md").read_text()
