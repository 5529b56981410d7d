"""What every model costs on every backbone: parameters, operations, time and memory, in one table.

All contenders take turns, each measurement in a child process of its own, so that a slow minute of
the machine does not fall on one model. Models are those of the MODELS table at the sizes of their
YAML, each trained by its own objective. The audio network is left out: it is a choice of its own,
and frozen but for trials. Trade-off: a training step holds two clips, because a contrast between
clips needs two and all models should do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from avs.benchmark.config import BenchmarkConfig, ModelsConfig
from avs.benchmark.frame import Contender, interleave
from avs.benchmark.process import KilledError, run_reporting
from avs.benchmark.recipe import read_recipe
from avs.benchmark.spec import Form, Spec, Work
from avs.config import choice_error
from avs.models import MODELS

__all__ = ["CostRuns", "check_cost", "cost_markdown", "cost_plain", "run_cost"]

NUM_FRAMES = 5
CLIPS_OF_A_STEP = 2
_TIMED = (Work.FORWARD, Work.STEP)


@dataclass(kw_only=True, slots=True)
class CostRuns:
    """Per contender, which is (model, backbone): what it counts, and its figures by repeat.

    A repeat holds ``forward_...`` and ``step_...`` figures; without those of a work whose child was
    killed, which ``killed`` names with what was said.
    """

    counts: dict[tuple[str, str], dict[str, float]]
    repeats: dict[tuple[str, str], list[dict[str, float]]]
    killed: dict[tuple[str, str, str], str] = field(default_factory=dict)


def run_cost(
    config: BenchmarkConfig, *, configs: Path, say: Callable[[str], None] = print
) -> CostRuns:
    """Measure ``models.cost_models`` x ``models.backbones``, ``repeats`` times.

    configs: the folder of the model's YAMLs.
    Raises ConfigError for an unknown model or one without YAML, AvsError where a child failed.
    """
    specs = _specs(config.models, configs=configs)
    counts = {}
    for key, spec in specs.items():
        counted = replace(spec, work=Work.COUNT)
        counts[key] = run_reporting(counted.command(), num_threads=spec.num_threads)
        say(f"benchmark: cost of {' '.join(key)}: {_counts_text(counts[key])}")
    runs = CostRuns(counts=counts, repeats={})
    keys = {" ".join(key): key for key in specs}
    contenders = [
        Contender(name=name, what=name, run=_runner(specs[key], key, runs.killed))
        for name, key in keys.items()
    ]
    results = interleave(contenders, repeats=config.repeats, say=say)
    runs.repeats = {keys[name]: figures for name, figures in results.items()}
    return runs


def check_cost(config: ModelsConfig, *, configs: Path) -> None:
    """Raise ConfigError for a model that :func:`run_cost` would not know."""
    _specs(config, configs=configs)


def cost_markdown(config: BenchmarkConfig, runs: CostRuns) -> str:
    """The table and what its figures are; without a line of the machine."""
    lines = [
        "| model | backbone | parameters, 10^6 | GFLOPs | forward, s | forward, MB "
        "| training step, s | training step, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, repeats in runs.repeats.items():
        figures = ("forward_seconds", "forward_peak_mb", "step_seconds", "step_peak_mb")
        cells = [_median_cell(repeats, name) for name in figures]
        count = runs.counts[key]
        counted = [f"{count['parameters'] / 1e6:.1f}", f"{count['flops'] / 1e9:.0f}"]
        lines.append(f"| {' | '.join([*key, *counted, *cells])} |")
    killed = [f"{' '.join(where)}: {why}\n" for where, why in runs.killed.items()]
    return "\n".join([_caption(config), *lines, "", *killed])


def cost_plain(runs: CostRuns) -> dict[str, Any]:
    """For ``benchmark.json``: contenders are named "model backbone"."""
    return {
        "counts": {" ".join(key): count for key, count in runs.counts.items()},
        "repeats": {" ".join(key): repeats for key, repeats in runs.repeats.items()},
        "killed": {" ".join(where): why for where, why in runs.killed.items()},
    }


def _specs(config: ModelsConfig, *, configs: Path) -> dict[tuple[str, str], Spec]:
    """The forward pass of each contender; its other works differ as :func:`_work` says."""
    names = list(MODELS) if config.cost_models is None else config.cost_models
    for name in names:
        if name not in MODELS:
            raise choice_error("models.cost_models", name, list(MODELS))
    recipes = {name: read_recipe(name, configs=configs) for name in names}
    return {
        (name, backbone): Spec(
            form=Form.AVS,
            model=name,
            work=Work.FORWARD,
            backbone=backbone,
            **asdict(recipe),
            num_frames=NUM_FRAMES,
            size_px=config.image_size_px,
            num_threads=config.num_threads,
        )
        for name, recipe in recipes.items()
        for backbone in config.backbones
    }


def _work(spec: Spec, work: Work) -> Spec:
    if work is Work.STEP:  # which settles in its third run
        return replace(spec, work=work, num_clips=CLIPS_OF_A_STEP, warm_ups=2)
    return replace(spec, work=work, runs=2)


def _runner(
    spec: Spec, key: tuple[str, str], killed: dict[tuple[str, str, str], str]
) -> Callable[[int], Mapping[str, float]]:
    """Runs one child after the other; a work that was killed once is not tried again."""

    def run(_repeat: int) -> Mapping[str, float]:
        figures: dict[str, float] = {}
        for work in _TIMED:
            where = (*key, work.value)
            if where in killed:
                continue
            child = _work(spec, work)
            try:
                told = run_reporting(child.command(), num_threads=child.num_threads)
            except KilledError:
                killed[where] = "killed, too little memory on this machine"
                continue
            figures |= {f"{work.value}_{name}": value for name, value in told.items()}
        return figures

    return run


def _median_cell(repeats: Sequence[Mapping[str, float]], name: str) -> str:
    values = [figures[name] for figures in repeats if name in figures]
    if not values:
        return "-"
    digits = 0 if name.endswith("_mb") else 2
    spread = (min(values), median(values), max(values))
    least, middle, greatest = (f"{value:.{digits}f}" for value in spread)
    return middle if least == greatest else f"{middle} ({least} to {greatest})"


def _caption(config: BenchmarkConfig) -> str:
    models = config.models
    smoke = "A smoke run, whose figures say nothing. " if config.quick else ""
    return (
        f"{smoke}Forward: one clip of T = {NUM_FRAMES} frames of {models.image_size_px} px, "
        f"without gradients. Training step: {CLIPS_OF_A_STEP} such clips, forward, the model's own "
        "objective, backward and Adam. Parameters and GFLOPs are those of the segmenter with its "
        "backbone, without the audio network; GFLOPs of the forward, a multiply-add counts as 2 "
        "(convolutions, matrix products, attention). MB: greatest resident memory of the process. "
        "Sizes as in configs/model/NAME.yaml, random weights, float32, "
        f"{models.num_threads} threads; medians of {config.repeats} interleaved runs (least to "
        "greatest).\n"
    )


def _counts_text(counts: Mapping[str, float]) -> str:
    millions, giga = counts["parameters"] / 1e6, counts["flops"] / 1e9
    return f"{millions:.1f} million parameters, {giga:.1f} GFLOPs"
