"""Stage ``models``: our networks beside the published form, and what each model costs.

Two questions with one report: the cases (:mod:`avs.benchmark.cases`) give ratios on one backbone,
the cost table (:mod:`avs.benchmark.cost`) sets all models on all backbones side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avs.benchmark.cases import run_cases
from avs.benchmark.cases_report import cases_report
from avs.benchmark.config import BenchmarkConfig
from avs.benchmark.cost import check_cost, cost_markdown, cost_plain, run_cost
from avs.benchmark.frame import machine, machine_line
from avs.storage import write_bytes, write_json

__all__ = ["benchmark_models"]


def benchmark_models(
    config: BenchmarkConfig, *, configs: Path, say: Callable[[str], None] = print
) -> str:
    """Measure; write below ``config.out`` and return the markdown.

    Files: ``benchmark.json`` and ``benchmark.md`` with everything, and ``cost.md``, which is the
    cost table alone. configs: the folder of the models' YAMLs.

    Raises:
        ConfigError: an unknown case or model. AvsError: a contender failed.
    """
    here = machine()
    if config.models.cost:
        check_cost(config.models, configs=configs)  # before the hour that the cases can take
    text, plain = cases_report(config, run_cases(config.models, say=say))
    parts, result = [text], {"machine": here, "settings": asdict(config.models), **plain}
    if config.models.cost:
        _write(config.out, parts, result)  # what stands, before the hour that the table can take
        runs = run_cost(config, configs=configs, say=say)
        table = cost_markdown(config, runs)
        write_bytes(f"{config.out}/cost.md", f"{table}\n{machine_line(here)}".encode())
        parts.append(f"## cost\n\n{table}")
        result["cost"] = cost_plain(runs)
    text = _write(config.out, parts, result)
    say(text)
    return text


def _write(out: str, parts: Sequence[str], result: Mapping[str, Any]) -> str:
    text = "\n".join([*parts, machine_line(result["machine"])])
    write_json(f"{out}/benchmark.json", result)
    write_bytes(f"{out}/benchmark.md", text.encode())
    return text
