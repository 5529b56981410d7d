"""Stage models: the published form computes what ours does, and the comparison is told rightly."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_config import stage_config
from torch import nn

from avs.benchmark import BenchmarkConfig, cases, run_benchmark
from avs.benchmark.models import benchmark_models
from avs.benchmark.models_child import measure
from avs.benchmark.process import KilledError, run_reporting
from avs.benchmark.published_c3n import PublishedC3n
from avs.benchmark.published_tpavi import PublishedTpavi, pairwise_bytes
from avs.benchmark.ratios import growth, pair_ratios
from avs.benchmark.spec import Form, Spec, Work
from avs.errors import AvsError, ConfigError
from avs.models import ModelInput, build_model
from avs.models.c3n import C3nSegmenter
from avs.models.tpavi import TpaviSegmenter

SMALL = Spec(
    form=Form.AVS,
    model="tpavi",
    work=Work.FORWARD,
    backbone="test_resnet",
    options={"fusion_width": 16},
    num_frames=2,
    size_px=64,
    num_threads=1,
)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"temporal_group": 2}, {"use_audio": False}, {"fusion_stages": (2, 4)}],
    ids=["all", "groups", "visual", "stages"],
)
def test_the_published_form_computes_what_ours_does(
    options: dict[str, Any], training: bool
) -> None:
    torch.manual_seed(3)
    ours = build_model("tpavi", backbone="resnet10t", num_classes=3, fusion_width=16, **options)
    assert isinstance(ours, TpaviSegmenter)
    for block in ours.fusions.values():
        nn.init.normal_(block.bn.weight)
        nn.init.normal_(block.bn.running_mean, std=0.1)
    # double: training statistics over few pixels magnify float32 noise
    ours = ours.double().train(training)
    published = PublishedTpavi(ours).double()
    x = ModelInput(
        frames=torch.randn(2, 4, 3, 64, 96, dtype=torch.float64),
        audio_embedding=torch.randn(2, 4, 128, dtype=torch.float64),
        frame_valid=torch.tensor([[True] * 4, [True, True, True, False]]),
    )
    a, b = ours(x), published(x)
    torch.testing.assert_close(a.logits, b.logits, atol=1e-9, rtol=1e-9)
    for mine, theirs in zip(a.fused_maps, b.fused_maps, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)
    for mine, theirs in zip(a.projected_audio, b.projected_audio, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("backbone", ["pvt_v2_b0", "test_resnet"])
def test_the_published_c3n_computes_what_ours_does(backbone: str) -> None:
    torch.manual_seed(3)
    ours = build_model(
        "c3n",
        backbone=backbone,
        num_classes=1,
        fusion_width=16,
        similarity=torch.rand(1000, 527),
    ).eval()
    assert isinstance(ours, C3nSegmenter)
    for block in ours.fusions.values():
        nn.init.normal_(block.bn.weight)
    x = ModelInput(
        frames=torch.randn(1, 3, 3, 64, 96),
        audio_embedding=torch.randn(1, 3, 128),
        audio_logits=2.0 * torch.randn(1, 3, 527),
    )
    published = PublishedC3n(ours)
    with torch.no_grad():
        expected = ours(x).logits
        torch.testing.assert_close(published(x).logits, expected, atol=1e-4, rtol=1e-4)
    assert float(expected.std()) > 0.0


@pytest.mark.parametrize(
    ("model", "work"),
    [("tpavi", Work.STEP), ("tpavi", Work.FORWARD), ("tpavi", Work.FUSION), ("c3n", Work.FORWARD)],
)
def test_both_forms_report_the_same_result(model: str, work: Work) -> None:
    figures = [measure(replace(SMALL, model=model, form=form, work=work)) for form in Form]
    assert figures[0]["value"] == pytest.approx(figures[1]["value"], rel=1e-4)
    assert all(f["seconds"] > 0 and f["peak_mb"] > 0 for f in figures)


def test_a_spec_survives_the_command_line() -> None:
    assert Spec.from_json(SMALL.to_json()) == SMALL


def test_ratios_pair_the_runs_and_bound_their_mean() -> None:
    runs = {
        "slow": [{"seconds": s, "zero": 0.0} for s in (2.0, 6.0, 8.0)],
        "fast": [{"seconds": s, "zero": 1.0} for s in (1.0, 2.0, 2.0)],
    }
    ratios = pair_ratios(runs, "slow", "fast")
    assert set(ratios) == {"seconds"}  # a figure of 0 has no ratio
    assert ratios["seconds"].median == 3.0
    logs = [math.log(2), math.log(3), math.log(4)]
    mean = sum(logs) / 3
    error = math.sqrt(sum((v - mean) ** 2 for v in logs) / 2 / 3)
    t_90_percent_2_degrees = 1.8856
    assert ratios["seconds"].lower == pytest.approx(
        math.exp(mean - t_90_percent_2_degrees * error), rel=1e-4
    )
    assert pair_ratios({"fast": runs["fast"]}, "slow", "fast") == {}
    one = {name: values[:1] for name, values in runs.items()}
    assert pair_ratios(one, "slow", "fast")["seconds"].lower is None


def test_growth_is_a_multiple_of_the_first_case_that_ran() -> None:
    runs = {
        "a": {"x": [{"seconds": 2.0}], "y": [{"seconds": 1.0}]},
        "b": {"x": [{"seconds": 8.0}], "y": []},
    }
    assert growth(runs, ["a", "b"], "x") == {"a": 1.0, "b": 4.0}
    assert growth(runs, ["a", "b"], "y") == {"a": 1.0}


def test_the_n_by_n_matrices_grow_with_the_square() -> None:
    one = pairwise_bytes(num_frames=5, height_px=224, width_px=224, training=False)
    assert one == 2 * 4 * 15_680**2  # N of the paper's stride 4 and T = 5
    twice = pairwise_bytes(num_frames=10, height_px=224, width_px=224, training=False)
    assert twice == 4 * one


def test_a_contender_that_cannot_fit_is_not_started_and_the_report_says_so(tmp_path: Path) -> None:
    config = stage_config(tmp_path, cases=["forward"], memory_limit_gb=1e-6)
    said: list[str] = []
    text = _benchmark(config, said)
    assert "published form is not started" in text
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(result["repeats"]["forward"]) == {"avs"}
    assert result["ratios"]["forward"] == {}
    assert "memory_limit_gb" in result["refused"]["forward"]


def test_a_contender_that_the_kernel_ends_leaves_ours_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], *, num_threads: int, return_freed: bool) -> dict[str, float]:
        if Spec.from_json(command[-1]).form is Form.PUBLISHED:
            raise KilledError("killed")
        return {"seconds": 1.0, "peak_mb": 1.0, "extra_mb": 1.0, "value": 1.0}

    monkeypatch.setattr(cases, "run_reporting", run)
    text = _benchmark(stage_config(tmp_path, cases=["forward"]), [])
    assert "killed" in text
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(result["repeats"]["forward"]) == {"avs"}


def test_every_case_tells_its_ratio_and_growth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], *, num_threads: int, return_freed: bool) -> dict[str, float]:
        assert num_threads == 1
        spec = Spec.from_json(command[-1])
        size = spec.num_frames / 5 * (spec.size_px / 64) ** 2
        seconds = size if spec.form is Form.AVS else 2.5 * size**2
        return {"seconds": seconds, "peak_mb": seconds, "extra_mb": seconds, "value": 1.0}

    monkeypatch.setattr(cases, "run_reporting", run)
    text = _benchmark(stage_config(tmp_path, pairs=7), [])
    assert "| step: seconds | 2.00 | 2.50 | 2.50 | 7 |" in text
    assert "| step: peak_mb | 1.33 | 2.50 | 2.50 | 7 |" in text
    assert "- avs: forward x 1.00, forward_10_frames x 2.00, forward_20_frames x 4.00" in text
    assert (
        "- published: forward x 1.00, forward_10_frames x 4.00, forward_20_frames x 16.00" in text
    )
    assert set(json.loads((tmp_path / "benchmark.json").read_text())["cases"]) == set(cases.CASES)


def test_a_quick_run_in_child_processes(tmp_path: Path) -> None:
    config = replace(stage_config(tmp_path, cases=["fusion"]), quick=True)
    assert (config.models.backbone, config.models.pairs) == ("test_resnet", 1)
    run_benchmark(config, jobs=tmp_path)
    (published,), (ours,) = json.loads((tmp_path / "benchmark.json").read_text())["repeats"][
        "fusion"
    ].values()
    assert published["value"] == pytest.approx(ours["value"], rel=1e-4)


def test_an_unknown_case_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="forward_20_frames"):
        _benchmark(stage_config(tmp_path, cases=["stop"]), [])


@pytest.mark.parametrize(
    ("key", "value"),
    [("pairs", 0), ("num_threads", 0), ("image_size_px", 100), ("memory_limit_gb", 0.0)],
)
def test_a_wrong_setting_is_named(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"models.{key}={value}"):
        stage_config(tmp_path, **{key: value})


def test_a_child_that_fails_or_is_killed_is_told_apart() -> None:
    with pytest.raises(AvsError, match=r"ended with 3: .*bad luck"):
        run_reporting(
            [sys.executable, "-c", "import sys; print('bad luck'); sys.exit(3)"], num_threads=1
        )
    with pytest.raises(KilledError, match="too little memory"):
        run_reporting([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], num_threads=1)


def test_a_child_has_its_threads_pinned() -> None:
    code = "import os; print('noise'); print('{\"n\": ' + os.environ['OMP_NUM_THREADS'] + '}')"
    assert run_reporting([sys.executable, "-c", code], num_threads=3) == {"n": 3}


def test_a_child_can_be_told_to_return_what_it_frees() -> None:
    """Peak memory is then what is in use at once, and not what glibc keeps of several runs."""
    code = (
        "import json, resource, torch\n"
        "for size in (2, 3, 5, 7, 6, 4): torch.ones(size << 18)\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "kb = next(int(l.split()[1]) for l in lines if l.startswith('VmRSS'))\n"
        "peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(json.dumps({'freed_mb': (peak_kb - kb) / 1e3}))"
    )
    command = [sys.executable, "-c", code]
    freed = run_reporting(command, num_threads=1, return_freed=True)["freed_mb"]
    assert freed > 4.0


def _benchmark(config: BenchmarkConfig, said: list[str]) -> str:
    return benchmark_models(config, configs=Path("unused: no cost table"), say=said.append)
