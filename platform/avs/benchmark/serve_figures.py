"""What the answers of stage ``serve`` say as figures: latency, overhead, rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

import numpy as np

from avs.benchmark.serve_load import Answer
from avs.errors import AvsError

__all__ = ["latencies", "loop_figures", "turn_figures"]

_OK = 200


def turn_figures(
    turns: Mapping[str, Sequence[Answer]], *, base: str, without: Sequence[str]
) -> dict[str, dict[str, float]]:
    """:func:`latencies` of each contender, and ``overhead_ms``: the median of what its requests
    took longer than those of ``base`` in the same turn.

    ``without``: contenders that do no work, so that all of their time is overhead.
    """
    figures = {name: latencies(answers, name=name) for name, answers in turns.items()}
    for name, answers in turns.items():
        more_ms = [
            1e3 * (a.seconds - (0.0 if name in without else b.seconds))
            for a, b in zip(answers, turns[base], strict=True)
            if a.status == b.status == _OK
        ]
        figures[name]["overhead_ms"] = median(more_ms)
    return figures


def loop_figures(
    answers: Sequence[Answer], *, num_clients: int, num_windows: int, name: str
) -> dict[str, float]:
    """:func:`latencies` and windows a second of a closed loop once every client waits its turn:
    behind the first ``num_clients`` answers. num_windows: of each request.

    Raises AvsError where no request is left or none is good.
    """
    counted = answers[num_clients:]
    if not counted:
        raise AvsError(f"{name}: no request counts: give more serve.requests")
    found = latencies(counted, name=name)
    num_good = len(counted) - found["failed"]
    seconds = answers[-1].ended_s - answers[num_clients - 1].ended_s
    return {"windows_per_s": num_windows * num_good / seconds, **found}


def latencies(answers: Sequence[Answer], *, name: str) -> dict[str, float]:
    """Milliseconds of good answers, and how many were refused at first or not good.

    p99 of fewer than a hundred is close to the greatest. Raises AvsError where none is good.
    """
    good_ms = [1e3 * a.seconds for a in answers if a.status == _OK]
    if not good_ms:
        last = answers[-1]
        said = last.body[-300:].decode(errors="replace")
        raise AvsError(f"{name} answered no request, the last with {last.status}: {said}")
    p50_ms, p99_ms = np.percentile(good_ms, [50, 99])
    return {
        "p50_ms": float(p50_ms),
        "p99_ms": float(p99_ms),
        "mean_ms": fmean(good_ms),
        "refused": float(sum(a.num_refused for a in answers)),
        "failed": float(len(answers) - len(good_ms)),
    }
