"""The end of a job: a table on the terminal, and the same as ``out/summary.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avs import storage
from avs.progress import duration_text
from avs.telemetry.run import JobRun

__all__ = ["SUMMARY", "write_summary"]

SUMMARY = "summary.json"


def write_summary(
    out: str,
    *,
    run: JobRun,
    seconds: float,
    rows: Sequence[tuple[str, Any]],
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Say ``rows`` (name, value) as the job's last lines and write them to ``out/summary.json``.

    Values are numbers, text, or None for what the job does not have. Returns what is written:
    ``job``, ``run``, ``seconds`` and ``rows`` by name.

    Raises:
        StorageError: it could not be written.
    """
    uri = storage.join(out, SUMMARY)
    summary = {"job": run.job, "run": run.id, "seconds": round(seconds, 1), "rows": dict(rows)}
    storage.write_json(uri, summary)
    told = [*rows, ("time", duration_text(seconds)), ("summary", uri)]
    if run.log_uri is not None:
        told.append(("log", run.log_uri))
    width = max(len(name) for name, _ in told)
    say(f"== {run.job} {run.id}")
    for name, value in told:
        say(f"{name:<{width}}  {_shown(value)}")
    return summary


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
