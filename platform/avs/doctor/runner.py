"""Runs all checks side by side, each with a time limit, and prints a line for every finding.

A check that hangs is left behind in its thread, and one that crashes is a finding like any other:
what a doctor is called for is just what makes checks fail in ways nobody thought of.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from avs.doctor import checkpoint, cluster, gpu, machine, media, packages, storage_checks
from avs.doctor.config import DoctorConfig
from avs.doctor.finding import Check, Finding, Status, fail

__all__ = ["all_checks", "examine", "run_doctor"]

_MARGIN_S = 5.0  # for checks that keep the limit by themselves, and say more than that it was over


def run_doctor(config: DoctorConfig, *, say: Callable[[str], None] = print) -> int:
    """Look at everything that ``config`` names, print it, and return the exit code: 1 where a check
    failed, else 0."""
    findings: list[Finding] = []
    checks = all_checks(config)
    for found in examine(checks, limit_s=config.timeout_s + _MARGIN_S):
        findings += found
        if not config.json:
            for finding in found:
                say(finding.line(width=18))
    counts = {status.value: sum(f.status is status for f in findings) for status in Status}
    if config.json:
        plain = [
            {"status": f.status.value, "name": f.name, "found": f.found, "cure": f.cure}
            for f in findings
        ]
        say(json.dumps({"counts": counts, "findings": plain}, indent=2))
    else:
        say(", ".join(f"{count} {name}" for name, count in counts.items()))
    return 1 if counts[Status.FAIL.value] else 0


def all_checks(config: DoctorConfig) -> list[Check]:
    """In the order in which they are printed."""
    limit_s = config.timeout_s
    return [
        Check("python", packages.look_at_python),
        Check("packages", packages.look_at_packages),
        Check("machine", machine.look_at_machine),
        Check("decoders", media.look_at_decoders),
        Check("GPU", partial(gpu.look_at_gpus, limit_s=limit_s)),
        Check("Ray", partial(cluster.look_at_cluster, config.address, limit_s=limit_s)),
        Check("storage", partial(storage_checks.look_at_storage, config.storage)),
        Check("clock", partial(storage_checks.look_at_clock, config.storage)),
        Check("checkpoint", partial(checkpoint.look_at_checkpoint, config.checkpoint)),
    ]


def examine(checks: Sequence[Check], *, limit_s: float) -> list[list[Finding]]:
    """Findings of each check, in order."""
    found: dict[str, Sequence[Finding]] = {}
    threads = []
    for check in checks:
        thread = threading.Thread(target=_look, args=(check, found), name=check.name, daemon=True)
        thread.start()
        threads.append(thread)
    until_s = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    return [list(found.get(check.name) or [_too_slow(check, limit_s)]) for check in checks]


def _look(check: Check, found: dict[str, Sequence[Finding]]) -> None:
    try:
        found[check.name] = check.look()
    except BaseException as error:  # whatever it is, it is what was found
        first = str(error).strip().splitlines()[:1] or [""]
        told = f"the check itself failed: {type(error).__name__}: {first[0]}"
        found[check.name] = [fail(check.name, told, "mend what the error names, then look again")]


def _too_slow(check: Check, limit_s: float) -> Finding:
    cure = "see whether it can be reached, or give a larger timeout_s="
    return fail(check.name, f"no answer within {limit_s:g} s", cure)
