"""The cases of stage ``models``: our networks beside the published form, with the same weights.

Every measurement is a child process (:mod:`avs.benchmark.models_child`), ours and the published
form taking turns; each pair gives one ratio, so that what slows the machine for a minute slows both
of a pair. A contender whose N x N matrices cannot fit is not started, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from avs.benchmark.config import ModelsConfig
from avs.benchmark.frame import Contender, interleave
from avs.benchmark.process import KilledError, run_reporting
from avs.benchmark.published_tpavi import pairwise_bytes
from avs.benchmark.spec import Form, Spec, Work
from avs.config import choice_error

__all__ = ["CASES", "WHAT", "Case", "CaseRuns", "run_cases"]

WHAT = {
    Form.PUBLISHED.value: "N x N attention, as published",
    Form.AVS.value: "this platform",
}


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


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseRuns:
    """results: per case the figures of each contender by repeat. refused: per case, why the
    published form has none or not all."""

    results: dict[str, dict[str, list[dict[str, float]]]]
    refused: dict[str, str]


def run_cases(config: ModelsConfig, *, say: Callable[[str], None] = print) -> CaseRuns:
    """Measure ``config.cases``.

    Figures of a contender: see :func:`avs.benchmark.models_child.measure`.
    Raises ConfigError for an unknown case, AvsError where a contender failed.
    """
    names = list(CASES) if config.cases is None else config.cases
    for name in names:
        if name not in CASES:
            raise choice_error("models.cases", name, list(CASES))
    runs = CaseRuns(results={}, refused={})
    for name in names:
        specs = _specs(CASES[name], config)
        if problem := _refusal(specs[Form.PUBLISHED], config):
            runs.refused[name] = problem
            del specs[Form.PUBLISHED]
        say(f"benchmark: {name}" + (f": {problem}" if problem else ""))
        pairs = min(config.pairs, CASES[name].max_pairs or config.pairs)
        try:
            runs.results[name] = interleave(_contenders(specs), repeats=pairs, say=say)
        except KilledError as error:
            runs.refused[name] = str(error)
            specs.pop(Form.PUBLISHED, None)
            runs.results[name] = interleave(_contenders(specs), repeats=pairs, say=say)
    return runs


def _contenders(specs: Mapping[Form, Spec]) -> Sequence[Contender]:
    return [
        Contender(name=form.value, what=WHAT[form.value], run=_runner(spec))
        for form, spec in specs.items()
    ]


def _specs(case: Case, config: ModelsConfig) -> dict[Form, Spec]:
    ours = Spec(
        form=Form.AVS,
        model=case.model,
        work=case.work,
        backbone=config.backbone,
        options={"fusion_width": config.fusion_width},
        loss={"mapping_weight": 0.5},
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
    return lambda _repeat: run_reporting(
        spec.command(), num_threads=spec.num_threads, return_freed=spec.work is Work.FUSION
    )
