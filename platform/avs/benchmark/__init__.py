"""Benchmarks: the platform beside bare loops and the published form, in one run."""

from avs.benchmark.config import BenchmarkConfig, Stage

__all__ = ["BenchmarkConfig", "Stage"]
