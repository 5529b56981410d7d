"""Ranking of trials, and what is told of them while a sweep runs.

A line for a finished epoch only where its trial is among the best few by then: a sweep of hundreds
of trials stays readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avs.tuning.records import Status, TrialRecord

__all__ = ["best_of", "end_line", "epoch_line", "pareto_front", "ranked", "short_values"]

NUM_TOLD = 3


def ranked(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that have a J, the highest first; of equals the one that was there first."""
    scored = [(record.val_j, record) for record in records if record.val_j is not None]
    return [record for _, record in sorted(scored, key=lambda pair: -pair[0])]


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The one with the highest J; None as long as no epoch is done."""
    return next(iter(ranked(records)), None)


def pareto_front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials than which no other is both faster and better, the fastest first.

    Those without a measured latency are left out.
    """
    timed = [r for r in ranked(records) if r.latency_s is not None]
    front: list[TrialRecord] = []
    for record in sorted(timed, key=lambda r: (r.latency_s or 0.0, -(r.val_j or 0.0))):
        if not front or (record.val_j or 0.0) > (front[-1].val_j or 0.0):
            front.append(record)
    return front


def epoch_line(
    record: TrialRecord, records: Sequence[TrialRecord], *, num_epochs: int
) -> str | None:
    """A line for the last epoch of ``record`` where it is one of the best few, else None."""
    place = [other.name for other in ranked(records)].index(record.name) + 1
    if place > NUM_TOLD:
        return None
    last = record.history[-1]
    return (
        f"tune: #{place} of {len(records)}: {record.name} epoch {last['epoch']}/{num_epochs} "
        f"J {last['val_j']:.3f} (best {record.val_j:.3f}) {short_values(record.values)}"
    )


def end_line(record: TrialRecord, *, num_ended: int, num_trials: int | None) -> str:
    """A line for a trial that has ended, the reason of a failure included."""
    count = f"{num_ended} ended" if num_trials is None else f"{num_ended} of {num_trials} ended"
    score = "" if record.val_j is None else f", J {record.val_j:.3f}"
    if record.status is Status.FAILED:
        return f"tune: {record.name} failed: {record.error} ({count})"
    how = "was stopped early" if record.status is Status.STOPPED else record.status.value
    return f"tune: {record.name} {how} after {len(record.history)} epochs{score} ({count})"


def short_values(values: Mapping[str, Any]) -> str:
    """Values by the last part of their key."""
    shown = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in values.items()]
    return " ".join(shown) or "as configured"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace(" ", "")
