"""A start imports what it needs: the rest takes seconds, in the job and again in each worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What a training on prepared data does without, or needs only once it builds, draws or ends.
# Ray is among them, because the loop runs without it; what Ray itself imports is its own.
HEAVY = (
    *("ray", "pandas", "scipy", "sympy", "matplotlib"),
    *("timm", "torchaudio", "torchvision", "torch._dynamo", "torch._inductor"),
    *("huggingface_hub", "decord", "s3fs", "hydra"),
)


def _imported_by(*modules: str) -> set[str]:
    """The names of all modules in a fresh interpreter that imports these."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(["avs.training.config", "avs.models"], id="the job before Ray"),
        pytest.param(
            ["avs.training.loop", "avs.training.tensorboard_log", "avs.report.run_log"],
            id="a worker before its model",
        ),
    ],
)
def test_a_start_imports_nothing_heavy(modules: list[str]) -> None:
    assert sorted(_imported_by(*modules) & set(HEAVY)) == []


def test_what_a_process_that_trains_nothing_takes_brings_no_networks() -> None:
    own = {name for name in _imported_by("avs.training.notices") if name.startswith("avs.")}
    assert own == {"avs.training", "avs.training.notices"}
