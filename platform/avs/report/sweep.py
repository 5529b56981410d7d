"""report.html of a sweep: the table of trials, what mattered, and the command for the best one."""

from __future__ import annotations

import html
from collections.abc import Sequence

from avs import storage
from avs.report.importance import dimension_importance
from avs.report.page import page, picture, table
from avs.report.sweep_figures import learning_curves, parallel_coordinates, pareto_picture
from avs.tuning.leaderboard import pareto_front, ranked, short_values
from avs.tuning.records import Status, TrialRecord
from avs.tuning.space import Dimension

__all__ = ["importance_rows", "write_sweep_report"]


def write_sweep_report(
    uri: str,
    records: Sequence[TrialRecord],
    *,
    dimensions: Sequence[Dimension],
    command: str | None,
    num_epochs: int,
) -> None:
    """Write the report of the trials so far. command: trains the best one."""
    sections = [("Trials", _trials(records))]
    if command:
        sections.insert(0, ("Train the best", f"<pre>{html.escape(command)}</pre>"))
    scored = ranked(records)
    if scored:
        sections += [
            ("What mattered", _importance(scored, dimensions)),
            ("Parallel coordinates", _parallel(scored, dimensions)),
            ("Validation J by epoch", picture(learning_curves(records), "J of each trial")),
        ]
    front = pareto_front(records)
    if front:
        sections.append(("J against latency", _front(records, front)))
    text = page("Sweep", sections, note=_note(records, num_epochs))
    storage.write_bytes(uri, text.encode())


def importance_rows(
    records: Sequence[TrialRecord], dimensions: Sequence[Dimension]
) -> list[tuple[str, float | None, int]]:
    """Key, share of the variance of J that it explains, number of trials it was searched in; what
    explains most comes first.

    Of trials that were stopped early the J so far is taken.
    """
    rows = []
    for dimension in dimensions:
        having = [r for r in records if dimension.key in r.values and r.val_j is not None]
        share = dimension_importance(
            [record.values[dimension.key] for record in having],
            [record.val_j or 0.0 for record in having],
            is_range=dimension.choice is None,
        )
        rows.append((dimension.key, share, len(having)))
    return sorted(rows, key=lambda row: -1.0 if row[1] is None else row[1], reverse=True)


def _note(records: Sequence[TrialRecord], num_epochs: int) -> str:
    count = {status: sum(r.status is status for r in records) for status in Status}
    told = ", ".join(f"{number} {status.value}" for status, number in count.items() if number)
    done = sum(len(record.history) for record in records)
    return (
        f"{len(records)} trials ({told}); {done} epochs of {len(records) * num_epochs} that "
        "training all of them to the end takes. J and F: validation, of each trial's best epoch."
    )


def _trials(records: Sequence[TrialRecord]) -> str:
    scored = ranked(records)
    rest = [record for record in records if record.val_j is None]
    rows = [_row(place, record) for place, record in enumerate(scored, start=1)]
    rows += [_row(None, record) for record in rest]
    header = ("trial", "place", "J", "F", "epochs", "ms", "status", "failures", "values", "error")
    return table(header, rows)


def _row(place: int | None, record: TrialRecord) -> tuple[object, ...]:
    row = record.row()
    shown = ["-" if row[key] is None else row[key] for key in ("val_j", "val_f")]
    latency = "-" if row["latency_ms"] is None else f"{row['latency_ms']:.1f}"
    return (
        record.name,
        "-" if place is None else place,
        *shown,
        row["epochs"],
        latency,
        record.status.value,
        record.num_failures,
        short_values(record.values),
        record.error,
    )


def _importance(records: Sequence[TrialRecord], dimensions: Sequence[Dimension]) -> str:
    rows = [
        (key, "too few trials" if share is None else f"{share:.0%}", count)
        for key, share, count in importance_rows(records, dimensions)
    ]
    note = (
        "<p class='note'>Share of the variance of J between groups of trials with alike values, "
        "less what chance gives; each dimension by itself.</p>"
    )
    return table(("dimension", "explains", "trials"), rows) + note


def _parallel(records: Sequence[TrialRecord], dimensions: Sequence[Dimension]) -> str:
    note = "<p class='note'>On the dashed line: not searched in that trial.</p>"
    return picture(parallel_coordinates(records, dimensions), "trials over all dimensions") + note


def _front(records: Sequence[TrialRecord], front: Sequence[TrialRecord]) -> str:
    rows = [
        (record.name, record.val_j or 0.0, f"{1000 * (record.latency_s or 0.0):.1f}")
        for record in front
    ]
    note = "<p class='note'>front/TRIAL.yaml trains one of them, as best.yaml does the best.</p>"
    shown = picture(pareto_picture(records, front), "J against latency")
    return shown + table(("trial", "J", "ms"), rows) + note
