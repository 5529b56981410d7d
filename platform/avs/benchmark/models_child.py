"""One contender of stage ``models``, in a process of its own: build, warm up, measure, report.

    python -m avs.benchmark.models_child '{"form": "avs", "work": "forward", ...}'

The last line of its output is a JSON object of figures. A child's memory is its own, so the peak of
one contender is not hidden by another's; the kernel is told to end the child first, should the
machine run out of memory.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from avs.benchmark.flops import count_flops, count_parameters
from avs.benchmark.spec import Spec, Work
from avs.benchmark.works import WORKS, network

__all__ = ["measure"]


def measure(spec: Spec) -> dict[str, float]:
    """Figures of one contender.

    seconds: least of ``runs``, after ``warm_ups``. cpu_seconds: processor time of all threads in
    them, which other work on the machine disturbs less. peak_mb: greatest resident memory since
    the network stands; extra_mb: that, less what was resident then. value: a number of the result
    that every form must agree on (loss of the first step, or mean |output|).
    Of ``Work.COUNT`` instead: parameters and flops, see :mod:`avs.benchmark.flops`.
    """
    torch.set_num_threads(spec.num_threads)
    torch.manual_seed(0)
    model = network(spec)
    torch.manual_seed(1)  # the same input whatever building drew
    run = WORKS[spec.work](model, spec)
    if spec.work is Work.COUNT:
        return {"parameters": count_parameters(model), "flops": count_flops(model, run)}
    return _timed(run, spec)


def _timed(run: Callable[[], float], spec: Spec) -> dict[str, float]:
    before_mb = _reset_peak_mb()
    value = run()
    for _ in range(spec.warm_ups - 1):
        run()
    times_s, cpu_times_s = [], []
    for _ in range(spec.runs):
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        run()
        times_s.append(time.perf_counter() - began_s)
        cpu_times_s.append(time.process_time() - cpu_began_s)
    peak_mb = _status_mb("VmHWM")
    return {
        "seconds": min(times_s),
        "cpu_seconds": min(cpu_times_s),
        "peak_mb": peak_mb,
        "extra_mb": peak_mb - before_mb,
        "value": value,
    }


def _reset_peak_mb() -> float:
    """Forget the peak of building; resident memory now, 10^6 bytes."""
    with contextlib.suppress(OSError):  # not all containers allow it: then the peak includes it
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = [line for line in lines if line.startswith(f"{key}:")]
    return int(found[0].split()[1]) * 1024 / 1e6


def main(text: str) -> dict[str, float]:
    """Measure what ``text`` says."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    return measure(Spec.from_json(text))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
