"""Stage ``train``: the job beside a loop under torchrun, and its start beside a bare TorchTrainer.

Every contender is a process of its own, started as a user would start it, and is judged by the
files that it leaves (:mod:`avs.benchmark.train_cases` says what is compared).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avs import storage
from avs.benchmark.config import BenchmarkConfig
from avs.benchmark.frame import interleave, machine, machine_line
from avs.benchmark.process import run_measured
from avs.benchmark.train_cases import CASES
from avs.benchmark.train_report import train_report
from avs.config import choice_error
from avs.prepare.manifest import MANIFEST
from avs.storage import write_bytes, write_json

__all__ = ["benchmark_train"]

_SHARD_CLIPS = 32
_NUM_VAL = 4  # validated after each epoch, which is not measured


def benchmark_train(
    config: BenchmarkConfig, *, jobs: Path, say: Callable[[str], None] = print
) -> str:
    """Measure; write ``benchmark.json`` and ``benchmark.md`` below ``config.out``; returns the md.

    ``jobs`` is the folder of the jobs. To be called inside a Hydra main: what the bare scripts
    train is composed from ``train.overrides``.

    Raises:
        ConfigError: an unknown case, or overrides that the bare scripts cannot follow.
        AvsError: a contender failed.
    """
    stage, here = config.train, machine()
    names = list(CASES) if stage.cases is None else stage.cases
    for name in names:
        if name not in CASES:
            raise choice_error("train.cases", name, list(CASES))
    prepared = Path(stage.prepared).absolute() if stage.prepared else _prepared(config, jobs, say)
    cases = {name: CASES[name](config, prepared, jobs) for name in names}
    results: dict[str, Mapping[str, Any]] = {}
    text = ""
    for name, contenders in cases.items():
        say(f"benchmark: {name}")
        results[name] = interleave(contenders, repeats=config.repeats, say=say)
        report, plain = train_report(config, results)
        text = f"{report}\n{machine_line(here)}"  # what stands, before the next case
        result = {"machine": here, "settings": asdict(stage), **plain}
        write_json(f"{config.out}/benchmark.json", result)
        write_bytes(f"{config.out}/benchmark.md", text.encode())
    say(text)
    return text


def _prepared(config: BenchmarkConfig, jobs: Path, say: Callable[[str], None]) -> Path:
    """Synthetic clips, made and prepared by the job unless they are there."""
    stage, out = config.train, Path(config.out).absolute()
    name = f"{stage.num_clips}x{stage.image_size_px}px"
    prepared = out / f"prepared-{name}"
    if storage.exists(str(prepared / MANIFEST)):
        return prepared
    say(f"benchmark: preparing {stage.num_clips} clips")
    values = {
        "data.root": f"'{out / f'synthetic-{name}'}'",
        "data.image_size_px": stage.image_size_px,
        "data.synthetic.size_px": stage.image_size_px,
        "data.synthetic.num_train": stage.num_clips,
        "data.synthetic.num_val": _NUM_VAL,
        "data.synthetic.num_test": 0,
        "out": f"'{prepared}'",
        "shard_clips": _SHARD_CLIPS,
    }
    given = [f"{key}={value}" for key, value in values.items()]
    run_measured([sys.executable, str(jobs / "prepare.py"), "data=synthetic", *given])
    return prepared
