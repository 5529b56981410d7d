"""Stage ``models``: our networks beside the published form, with the same weights.

Every measurement is a child process (:mod:`avs.benchmark.models_child`), ours and the published
form taking turns; each pair gives one ratio, so that what slows the machine for a minute slows both
of a pair. A contender whose N x N matrices cannot fit is not started, and the report says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from avs.benchmark.config import BenchmarkConfig, ModelsConfig
from avs.benchmark.frame import Contender, interleave, machine, markdown, summarise
from avs.benchmark.models_child import Form, Spec, Work
from avs.benchmark.process import KilledError, run_reporting
from avs.benchmark.published_tpavi import pairwise_bytes
from avs.benchmark.ratios import Ratio, growth, pair_ratios
from avs.config import choice_error
from avs.storage import write_bytes, write_json

__all__ = ["CASES", "Case", "benchmark_models"]

Results = Mapping[str, Sequence[Mapping[str, float]]]

_WHAT = {
    Form.PUBLISHED.value: "N x N attention, as published",
    Form.AVS.value: "this platform",
}
_MIN_PAIRS_OF_BOUND = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One comparison.

    size: side of the picture relative to ``models.image_size_px``. max_pairs: fewer than
    ``models.pairs`` where a bound is not asked for. wanted: per figure the least ratio published :
    ours. warm_ups, runs: runs in a child before those measured, and measured ones, of which the
    fastest counts. A training step settles in its third run: until then glibc asks the kernel anew
    for pages that it has just given back, which takes as long as the step.
    """

    work: Work
    num_frames: int
    model: str = "tpavi"
    size: float = 1.0
    max_pairs: int | None = None
    warm_ups: int = 1
    runs: int = 1
    wanted: Mapping[str, float] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "step": Case(
        work=Work.STEP,
        num_frames=5,
        warm_ups=3,
        runs=2,
        wanted={"seconds": 2.0, "peak_mb": 1 / 0.75},
    ),
    "step_10_frames": Case(
        work=Work.STEP,
        num_frames=10,
        warm_ups=3,
        max_pairs=2,
        wanted={"seconds": 3.0, "peak_mb": 2.0},
    ),
    "forward": Case(work=Work.FORWARD, num_frames=5, runs=3, wanted={"seconds": 1.9}),
    "fusion": Case(work=Work.FUSION, num_frames=5, max_pairs=3, wanted={"extra_mb": 20.0}),
    "c3n_forward": Case(
        work=Work.FORWARD, model="c3n", num_frames=5, runs=3, wanted={"seconds": 2.0}
    ),
    "forward_10_frames": Case(work=Work.FORWARD, num_frames=10, max_pairs=2),
    "forward_20_frames": Case(work=Work.FORWARD, num_frames=20, max_pairs=2),
    "forward_320_px": Case(work=Work.FORWARD, num_frames=5, size=320 / 224, max_pairs=2),
    "forward_448_px": Case(work=Work.FORWARD, num_frames=5, size=448 / 224, max_pairs=2),
}
# Cases whose seconds are told as multiples of the first one's, which has the least input.
_GROWTH = (
    ("forward", "forward_10_frames", "forward_20_frames"),
    ("forward", "forward_320_px", "forward_448_px"),
)


def benchmark_models(config: BenchmarkConfig, *, say: Callable[[str], None] = print) -> str:
    """Measure; write ``benchmark.json`` and ``benchmark.md`` below ``config.out``; returns the md.

    Figures of a case: ``seconds``, ``cpu_seconds`` (of all threads), ``peak_mb``, ``extra_mb``
    (without what stood before) and ``value``, a number of the result on which both forms must
    agree.

    Raises:
        ConfigError: an unknown case. AvsError: a contender failed.
    """
    names = list(CASES) if config.models.cases is None else config.models.cases
    for name in names:
        if name not in CASES:
            raise choice_error("models.cases", name, list(CASES))
    results: dict[str, Results] = {}
    refused: dict[str, str] = {}
    for name in names:
        specs = _specs(CASES[name], config.models)
        if problem := _refusal(specs[Form.PUBLISHED], config.models):
            refused[name] = problem
            del specs[Form.PUBLISHED]
        say(f"benchmark: {name}" + (f": {problem}" if problem else ""))
        pairs = min(config.models.pairs, CASES[name].max_pairs or config.models.pairs)
        try:
            results[name] = interleave(_contenders(specs), repeats=pairs, say=say)
        except KilledError as error:
            refused[name] = str(error)
            specs.pop(Form.PUBLISHED, None)
            results[name] = interleave(_contenders(specs), repeats=pairs, say=say)
    ratios = {
        name: pair_ratios(runs, Form.PUBLISHED.value, Form.AVS.value)
        for name, runs in results.items()
    }
    text = _write(config, results, ratios, refused)
    say(text)
    return text


def _contenders(specs: Mapping[Form, Spec]) -> list[Contender]:
    return [
        Contender(name=form.value, what=_WHAT[form.value], run=_runner(spec))
        for form, spec in specs.items()
    ]


def _specs(case: Case, config: ModelsConfig) -> dict[Form, Spec]:
    ours = Spec(
        form=Form.AVS,
        model=case.model,
        work=case.work,
        backbone=config.backbone,
        fusion_width=config.fusion_width,
        num_frames=case.num_frames,
        size_px=round(config.image_size_px * case.size / 32) * 32,
        num_threads=config.num_threads,
        warm_ups=case.warm_ups,
        runs=case.runs,
    )
    return {Form.PUBLISHED: replace(ours, form=Form.PUBLISHED), Form.AVS: ours}


def _refusal(spec: Spec, config: ModelsConfig) -> str | None:
    """Why the published form is not started, or None."""
    needed_gb = _pairwise_gb(spec)
    if needed_gb <= config.memory_limit_gb:
        return None
    return (
        f"the published form is not started: its N x N matrices need {needed_gb:.0f} GB, "
        f"models.memory_limit_gb={config.memory_limit_gb:g}"
    )


def _pairwise_gb(spec: Spec) -> float:
    training = spec.work is not Work.FORWARD
    return 1e-9 * pairwise_bytes(
        num_frames=spec.num_frames,
        height_px=spec.size_px,
        width_px=spec.size_px,
        training=training,
    )


def _runner(spec: Spec) -> Callable[[int], Mapping[str, float]]:
    command = [sys.executable, "-m", "avs.benchmark.models_child", spec.to_json()]
    return lambda _repeat: run_reporting(
        command, num_threads=spec.num_threads, return_freed=spec.work is Work.FUSION
    )


def _write(
    config: BenchmarkConfig,
    results: Mapping[str, Results],
    ratios: Mapping[str, Mapping[str, Ratio]],
    refused: Mapping[str, str],
) -> str:
    here = machine()
    grown = {
        chain[-1]: {form: growth(results, chain, form) for form in _WHAT}
        for chain in _GROWTH
        if set(chain) <= set(results)
    }
    parts = [_settings(config)]
    parts += [_ratio_table(ratios, wanted=not config.quick)] if ratios else []
    for name, runs in results.items():
        parts.append(markdown(name, summarise(runs), what=_WHAT))
        parts += [f"{refused[name]}\n"] if name in refused else []
    parts += [_growth_lines(grown)] if grown else []
    text = "\n".join([*parts, ", ".join(f"{k} {v}" for k, v in here.items()), ""])
    write_json(
        f"{config.out}/benchmark.json",
        {
            "machine": here,
            "settings": asdict(config.models),
            "cases": {name: _plain(CASES[name]) for name in results},
            "repeats": {
                n: {c: list(map(dict, r)) for c, r in v.items()} for n, v in results.items()
            },
            "ratios": {n: {k: asdict(r) for k, r in v.items()} for n, v in ratios.items()},
            "refused": dict(refused),
            "growth": grown,
        },
    )
    write_bytes(f"{config.out}/benchmark.md", text.encode())
    return text


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
