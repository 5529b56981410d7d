"""Benchmarks: the platform beside bare loops and the published form, in one run."""

from __future__ import annotations

from pathlib import Path

from avs.benchmark.config import (
    BenchmarkConfig,
    ModelsConfig,
    SegmentStageConfig,
    ServeStageConfig,
    Stage,
    TrainStageConfig,
)

__all__ = [
    "BenchmarkConfig",
    "ModelsConfig",
    "SegmentStageConfig",
    "ServeStageConfig",
    "Stage",
    "TrainStageConfig",
    "run_benchmark",
]


def run_benchmark(config: BenchmarkConfig, *, jobs: Path) -> str:
    """Measure the stage of ``config``; writes below ``config.out`` and returns the markdown.

    ``jobs`` is the folder of the jobs, beside that of the configurations. Raises ConfigError for an
    unknown contender, case or model, AvsError when a contender fails.
    """
    if config.stage is Stage.MODELS:
        from avs.benchmark.models import benchmark_models  # torch: only where it is measured

        return benchmark_models(config, configs=jobs.parent / "configs")
    if config.stage is Stage.TRAIN:
        from avs.benchmark.train import benchmark_train

        return benchmark_train(config, jobs=jobs)
    if config.stage is Stage.SERVE:
        from avs.benchmark.serve import benchmark_serve

        return benchmark_serve(config, jobs=jobs)
    if config.stage is Stage.SEGMENT:
        from avs.benchmark.segment import benchmark_segment

        return benchmark_segment(config, jobs=jobs)
    from avs.benchmark.prepare import benchmark_prepare

    return benchmark_prepare(config, jobs=jobs)
