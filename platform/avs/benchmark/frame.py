"""The frame of every benchmark: interleaved repeats, medians with spread, JSON and markdown.

Contenders take turns within a repeat, in an order that rotates, so that a slow minute of the
machine hits all of them; figures are compared as ratios of medians.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from avs import __version__
from avs.storage import write_bytes, write_json

__all__ = [
    "Contender",
    "Figure",
    "interleave",
    "machine",
    "machine_line",
    "markdown",
    "summarise",
    "write_result",
]

_PACKAGES = ("ray", "torch", "pyarrow", "numpy", "av", "decord")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """Something to measure: ``run(repeat)`` does it once and returns its figures by name."""

    name: str
    what: str
    run: Callable[[int], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Median, least and greatest of one figure over the repeats."""

    median: float
    least: float
    greatest: float


def interleave(
    contenders: Sequence[Contender], *, repeats: int, say: Callable[[str], None] = print
) -> dict[str, list[dict[str, float]]]:
    """The figures of each contender by repeat; who begins rotates."""
    results: dict[str, list[dict[str, float]]] = {c.name: [] for c in contenders}
    for repeat in range(repeats):
        first = repeat % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            figures = dict(contender.run(repeat))
            results[contender.name].append(figures)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            say(f"benchmark: {repeat + 1}/{repeats} {contender.name}: {shown}")
    return results


def summarise(
    results: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, dict[str, Figure]]:
    """Median and spread of every figure of every contender."""
    return {
        name: {
            key: Figure(median=median(values), least=min(values), greatest=max(values))
            for key in runs[0]
            if (values := [float(run[key]) for run in runs])
        }
        for name, runs in results.items()
    }


def markdown(
    title: str, summary: Mapping[str, Mapping[str, Figure]], *, what: Mapping[str, str]
) -> str:
    """A table: a row a contender, median (least to greatest) and the ratio to the first row."""
    names = list(summary)
    keys = list(summary[names[0]])
    lines = [f"## {title}", "", f"| | {' | '.join(keys)} |", "|---" * (len(keys) + 1) + "|"]
    for name in names:
        cells = [_cell(summary[name][key], summary[names[0]][key]) for key in keys]
        lines.append(f"| {name}: {what[name]} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(figure: Figure, reference: Figure) -> str:
    told = f"{figure.median:.4g} ({figure.least:.4g} to {figure.greatest:.4g})"
    if not reference.median:
        return told
    return f"{told}, x {figure.median / reference.median:.2f}"


def machine() -> dict[str, Any]:
    """What the figures were measured on, and when."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "num_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "avs": __version__,
        **{name: version(name) for name in _PACKAGES},
    }


def machine_line(here: Mapping[str, Any]) -> str:
    """:func:`machine` as the line under a table."""
    return ", ".join(f"{key} {value}" for key, value in here.items()) + "\n"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def write_result(
    out: str,
    *,
    title: str,
    results: Mapping[str, Sequence[Mapping[str, float]]],
    what: Mapping[str, str],
    settings: Mapping[str, Any],
) -> str:
    """Write ``benchmark.json`` and ``benchmark.md`` below ``out``; returns the markdown."""
    summary = summarise(results)
    here = machine()
    text = markdown(title, summary, what=what)
    text += f"\n{machine_line(here)}"
    plain = {name: {k: asdict(f) for k, f in figures.items()} for name, figures in summary.items()}
    write_json(
        f"{out}/benchmark.json",
        {
            "title": title,
            "machine": here,
            "settings": dict(settings),
            "summary": plain,
            "repeats": {name: [dict(run) for run in runs] for name, runs in results.items()},
        },
    )
    write_bytes(f"{out}/benchmark.md", text.encode())
    return text
