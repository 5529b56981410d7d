"""What stage ``serve`` says as text and JSON: what is wanted and found, then all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from avs.benchmark.config import BenchmarkConfig
from avs.benchmark.frame import markdown, summarise

__all__ = ["AVS", "BARE", "EMPTY", "PLAIN", "WHAT", "serve_report", "wanted"]

AVS, BARE, EMPTY, PLAIN = "avs", "bare", "empty", "plain"
WHAT = {
    AVS: "jobs/serve.py",
    PLAIN: "one FastAPI and uvicorn process with the same Predictor",
    BARE: "decoding, network, masks and JSON in a loop",
    EMPTY: "the same deployments with empty bodies",
}

Runs = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A figure of each repeat, and the bound that their median has to keep."""

    what: str
    bound: float
    is_most: bool
    values: Sequence[float]

    @property
    def median(self) -> float:
        """Of the repeats."""
        return median(self.values)

    @property
    def is_met(self) -> bool:
        """Whether the median keeps the bound."""
        return self.median <= self.bound if self.is_most else self.median >= self.bound

    def row(self, *, is_quick: bool) -> str:
        """Of the table."""
        side = "at most" if self.is_most else "at least"
        spread = f"{min(self.values):.3f} to {max(self.values):.3f}"
        found = "" if is_quick else "pass" if self.is_met else "short"
        bound = "" if is_quick else f"{side} {self.bound:g}"
        return f"| {self.what} | {bound} | {self.median:.3f} | {spread} | {found} |"


def wanted(one: Runs, many: Runs, *, num_clients: int) -> list[Wanted]:
    """What a model's figures are judged by. one, many: by contender, of one client and of many."""

    def ratios(runs: Runs, key: str, other: str) -> list[float]:
        return [a[key] / b[key] for a, b in zip(runs[AVS], runs[other], strict=True)]

    def tails(runs: Runs) -> list[float]:
        return [run["p99_ms"] / run["p50_ms"] for run in runs[AVS]]

    many_say = f"{num_clients} clients"
    most = [
        ("overhead, one client, avs : empty", 1.25, ratios(one, "overhead_ms", EMPTY)),
        (f"p99, {many_say}, avs : plain", 1.0, ratios(many, "p99_ms", PLAIN)),
        ("p99 : p50 of avs, one client", 3.0, tails(one)),
        (f"p99 : p50 of avs, {many_say}", 3.0, tails(many)),
        ("failed requests of avs", 0.0, [r["failed"] for runs in (one, many) for r in runs[AVS]]),
    ]
    least = [
        (f"windows/s, {many_say}, avs : bare", 0.9, ratios(many, "windows_per_s", BARE)),
        (f"windows/s, {many_say}, avs : plain", 0.95, ratios(many, "windows_per_s", PLAIN)),
    ]
    return [
        Wanted(what=what, bound=bound, is_most=side is most, values=values)
        for side in (most, least)
        for what, bound, values in side
    ]


def serve_report(
    config: BenchmarkConfig, results: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """Markdown, and what goes into ``benchmark.json``. results: by model: ``one``, ``many``,
    ``windows`` of a clip, ``idle_cores``."""
    parts, plain = [_settings(config)], dict[str, Any]()
    clients = config.serve.clients
    for model, found in results.items():
        rows = wanted(found["one"], found["many"], num_clients=clients)
        parts += [
            _wanted_table(model, rows, idle_cores=found["idle_cores"], is_quick=config.quick),
            markdown(f"{model}, one client, in turns", summarise(found["one"]), what=WHAT),
            markdown(
                f"{model}, {clients} clients, each alone", summarise(found["many"]), what=WHAT
            ),
        ]
        judged = [asdict(row) | {"median": row.median, "is_met": row.is_met} for row in rows]
        plain[model] = {"wanted": judged, **found}
    return "\n".join(parts), {"models": plain}


def _settings(config: BenchmarkConfig) -> str:
    stage = config.serve
    text = (
        f"{stage.num_clips} clips of 5 s, {stage.num_threads} threads of the network, "
        f"{config.repeats} repeats of at most {stage.requests} requests or {stage.round_s:g} s"
    )
    return f"{text}; a smoke run, whose figures say nothing\n" if config.quick else f"{text}\n"


def _wanted_table(model: str, rows: Sequence[Wanted], *, idle_cores: float, is_quick: bool) -> str:
    lines = [f"## {model}", "", "| | wanted | median | repeats | |", "|---|---|---|---|---|"]
    lines += [row.row(is_quick=is_quick) for row in rows]
    return "\n".join([*lines, "", f"At rest the service uses {idle_cores:.2f} cores.", ""])
