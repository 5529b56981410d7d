"""What stage ``train`` says as text and JSON: ratios with their bounds, scaling, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from avs.benchmark.config import BenchmarkConfig
from avs.benchmark.frame import markdown, summarise
from avs.benchmark.ratios import Ratio, pair_ratios
from avs.benchmark.train_cases import AVS, TORCHRUN, TRAINER, WHAT, contender_name

__all__ = ["train_report"]

_LEAST_RATE, _MOST_START = 0.95, 1.15
_MIN_PAIRS_OF_BOUND = 7

CaseRuns = Mapping[str, Sequence[Mapping[str, float]]]


def train_report(
    config: BenchmarkConfig, results: Mapping[str, CaseRuns]
) -> tuple[str, dict[str, Any]]:
    """Markdown, and what goes into ``benchmark.json``. results: by case, then contender."""
    parts, plain = [_settings(config)], dict[str, Any]()
    if "scaling" in results:
        text, plain["scaling"] = _scaling(config, results["scaling"])
        parts.append(text)
    if "start" in results:
        text, plain["start"] = _start(config, results["start"])
        parts.append(text)
    return "\n".join(parts), {"ratios": plain, "repeats": results}


def _settings(config: BenchmarkConfig) -> str:
    stage = config.train
    data = stage.prepared or f"{stage.num_clips} synthetic clips of {stage.image_size_px} px"
    text = f"{' '.join(stage.overrides)}; {data}; {config.repeats} interleaved repeats"
    return f"{text}; a smoke run, whose figures say nothing\n" if config.quick else f"{text}\n"


def _scaling(config: BenchmarkConfig, runs: CaseRuns) -> tuple[str, dict[str, Any]]:
    workers = config.train.workers
    against = {
        count: pair_ratios(runs, contender_name(AVS, count), contender_name(TORCHRUN, count))
        for count in workers
    }
    rates = {_counted(count): found["clips_per_s"] for count, found in against.items()}
    efficiency = {
        who: {count: _efficiency(runs, who, count, workers[0]) for count in workers[1:]}
        for who in (TORCHRUN, AVS)
    }
    wanted = None if config.quick else f"at least {_LEAST_RATE}"
    lines = _ratio_table("clips/s of the steps, avs : torchrun", rates, wanted, bound="lower")
    for who, ratios in efficiency.items():
        shown = {f"{_counted(count)} : {_counted(workers[0])}": r for count, r in ratios.items()}
        if shown:
            title = f"weak scaling of {who} (clips/s a worker)"
            lines += _ratio_table(title, shown, None, bound="lower")
    tables = [
        markdown(
            f"scaling, {_counted(count)}",
            summarise({who: runs[contender_name(who, count)] for who in (TORCHRUN, AVS)}),
            what=WHAT,
        )
        for count in workers
    ]
    return "\n".join([*lines, *tables]), {
        "avs : torchrun": {name: asdict(ratio) for name, ratio in rates.items()},
        "efficiency": {
            who: {_counted(count): asdict(ratio) for count, ratio in ratios.items()}
            for who, ratios in efficiency.items()
        },
    }


def _efficiency(runs: CaseRuns, who: str, count: int, base: int) -> Ratio:
    """Clips/s a worker with ``count`` workers as a share of that with ``base``."""
    ratios = pair_ratios(runs, contender_name(who, count), contender_name(who, base))
    return ratios["clips_per_s"].times(base / count)


def _start(config: BenchmarkConfig, runs: CaseRuns) -> tuple[str, dict[str, Any]]:
    ratios = pair_ratios(runs, AVS, TRAINER)
    shown = {name: ratios[name] for name in ("first_step_s", "total_s")}
    wanted = None if config.quick else f"at most {_MOST_START}"
    title = f"start, {_counted(config.train.start_workers)}"
    lines = _ratio_table(f"{title}, avs : trainer", shown, wanted, bound="upper")
    text = "\n".join([*lines, markdown(title, summarise(runs), what=WHAT)])
    return text, {"avs : trainer": {name: asdict(ratio) for name, ratio in ratios.items()}}


def _ratio_table(
    title: str, ratios: Mapping[str, Ratio], wanted: str | None, *, bound: str
) -> list[str]:
    """A row a ratio: what is wanted, the median of the pairs and its bound."""
    lines = [f"## {title}", "", f"| | wanted | median | {bound} 90 % bound | pairs |"]
    lines.append("|---|---|---|---|---|")
    for name, ratio in ratios.items():
        value = getattr(ratio, bound)
        told = value is not None and ratio.num_pairs >= _MIN_PAIRS_OF_BOUND
        cells = [name, wanted or "", f"{ratio.median:.3f}", f"{value:.3f}" if told else ""]
        lines.append(f"| {' | '.join(cells)} | {ratio.num_pairs} |")
    return [*lines, ""]


def _counted(num_workers: int) -> str:
    return f"{num_workers} worker{'' if num_workers == 1 else 's'}"
