"""Rejected clips: their table, their counts, the most frequent reasons, and the budget."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avs.errors import RejectBudgetError
from avs.prepare.records import Reject

__all__ = ["REJECTS", "check_budget", "common_messages", "count_rejects", "reject_table"]

REJECTS = "rejects.parquet"
# What differs between messages of one kind: paths, and numbers that stand alone.
_PATH = re.compile(r"[^\s:;,]*/[^\s:;,]*")
_NUMBER = re.compile(r"\b\d+(\.\d+)?\b")


def reject_table(rejects: Sequence[Reject]) -> bytes:
    """The rejects as a Parquet file, one row each, all columns text."""
    schema = pa.schema([(f.name, pa.string()) for f in fields(Reject)])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(r) for r in rejects], schema=schema), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def count_rejects(rejects: Iterable[Reject]) -> dict[str, dict[str, int]]:
    """Numbers of rejects ``by_stage`` and ``by_error_type``."""
    listed = list(rejects)
    return {
        "by_stage": dict(sorted(Counter(r.stage for r in listed).items())),
        "by_error_type": dict(sorted(Counter(r.error_type for r in listed).items())),
    }


def common_messages(messages: Iterable[tuple[str, str]]) -> list[tuple[str, int]]:
    """Messages counted by kind, most frequent first.

    ``messages``: (URI or id that a message is about, message). Messages that differ only in paths
    and numbers are of one kind, told with "..." and N for these and the first one whole; a single
    one is told as it is.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for about, text in messages:
        bare = _PATH.sub("...", text.replace(about, "..."))
        kinds[_NUMBER.sub("N", bare)].append(text)
    told = [
        (
            kind
            if kind == same[0]
            else same[0]
            if len(same) == 1
            else f"{kind} (first: {same[0]})",
            len(same),
        )
        for kind, same in kinds.items()
    ]
    return sorted(told, key=lambda item: (-item[1], item[0]))


def check_budget(
    counts: dict[str, Any], rejects: Sequence[Reject], *, max_ratio: float | None
) -> None:
    """Refuse a run with too many rejects.

    Raises:
        RejectBudgetError: more than ``max_ratio`` of the input was rejected; names the numbers
            and the three most frequent reasons.
    """
    ratio = counts["rejected"] / counts["input"]
    if max_ratio is None or ratio <= max_ratio:
        return
    reasons = common_messages((r.uri, r.message) for r in rejects)
    told = "; ".join(f"{count} x {reason}" for reason, count in reasons[:3])
    raise RejectBudgetError(
        f"{counts['rejected']} of {counts['input']} clips were rejected ({ratio:.1%}), "
        f"max_reject_ratio={max_ratio} allows {max_ratio:.1%}. Everything else is written. "
        f"Most frequent: {told}. All are in {REJECTS}; mend the input and run again with "
        "retry_rejects=true, or raise max_reject_ratio."
    )
