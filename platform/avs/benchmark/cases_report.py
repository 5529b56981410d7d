"""What the cases of stage ``models`` say as text and JSON: ratios with a bound, figures, growth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from avs.benchmark.cases import CASES, WHAT, Case, CaseRuns
from avs.benchmark.config import BenchmarkConfig
from avs.benchmark.frame import markdown, summarise
from avs.benchmark.ratios import Ratio, growth, pair_ratios
from avs.benchmark.spec import Form

__all__ = ["cases_report"]

_MIN_PAIRS_OF_BOUND = 7
# Cases whose seconds are told as multiples of the first one's, which has the least input.
_GROWTH = (
    ("forward", "forward_10_frames", "forward_20_frames"),
    ("forward", "forward_320_px", "forward_448_px"),
)


def cases_report(config: BenchmarkConfig, runs: CaseRuns) -> tuple[str, dict[str, Any]]:
    """Markdown, and what goes into ``benchmark.json``."""
    results = runs.results
    ratios = {
        name: pair_ratios(contenders, Form.PUBLISHED.value, Form.AVS.value)
        for name, contenders in results.items()
    }
    grown = {
        chain[-1]: {form: growth(results, chain, form) for form in WHAT}
        for chain in _GROWTH
        if set(chain) <= set(results)
    }
    parts = [_settings(config)]
    parts += [_ratio_table(ratios, wanted=not config.quick)] if ratios else []
    for name, contenders in results.items():
        parts.append(markdown(name, summarise(contenders), what=WHAT))
        parts += [f"{runs.refused[name]}\n"] if name in runs.refused else []
    parts += [_growth_lines(grown)] if grown else []
    return "\n".join(parts), {
        "cases": {name: _plain(CASES[name]) for name in results},
        "repeats": results,
        "ratios": {n: {k: asdict(r) for k, r in v.items()} for n, v in ratios.items()},
        "refused": runs.refused,
        "growth": grown,
    }


def _plain(case: Case) -> dict[str, Any]:
    return asdict(replace(case, wanted=dict(case.wanted))) | {"work": case.work.value}


def _settings(config: BenchmarkConfig) -> str:
    """What ran; of a smoke run, that its figures say nothing."""
    models = config.models
    text = (
        f"{models.backbone}, {models.image_size_px} px, width {models.fusion_width}, "
        f"{models.num_threads} threads, one clip, float32, random weights"
    )
    return f"{text}; a smoke run, whose figures say nothing\n" if config.quick else f"{text}\n"


def _ratio_table(ratios: Mapping[str, Mapping[str, Ratio]], *, wanted: bool) -> str:
    """A row a demand: what is wanted, the median of the pairs and its lower bound."""
    lines = ["## published : ours", "", "| | wanted | median | lower 90 % bound | pairs |"]
    lines.append("|---|---|---|---|---|")
    for name, figures in ratios.items():
        for key, ratio in figures.items():
            least = CASES[name].wanted.get(key)
            if least is None and key != "seconds":
                continue
            told = ratio.lower is not None and ratio.num_pairs >= _MIN_PAIRS_OF_BOUND
            bound = f"{ratio.lower:.2f}" if told else ""
            shown = f"{least:.2f}" if least is not None and wanted else ""
            lines.append(
                f"| {name}: {key} | {shown} | {ratio.median:.2f} | {bound} | {ratio.num_pairs} |"
            )
    return "\n".join([*lines, ""])


def _growth_lines(grown: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    lines = ["## seconds as multiples of the first case", ""]
    for forms in grown.values():
        for form, multiples in forms.items():
            steps = ", ".join(f"{case} x {value:.2f}" for case, value in multiples.items())
            lines.append(f"- {form}: {steps or 'one case only'}")
    return "\n".join([*lines, ""])
