"""Prepare runs that kill their own process, one at each point: python killed_run.py ROOT OUTS."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_clips import data_config
from prepare_runs import config_of, run

from avs.prepare import manifest, shard

POINTS = ("after decoding", "after the shard file", "before the manifest", "within the manifest")


def _kill(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _second_time(function: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[object] = []

    def call(*args: Any, **values: Any) -> Any:
        calls.append(args)
        return _kill() if len(calls) == 2 else function(*args, **values)

    return call


def _arm(point: str) -> None:
    if point == "after decoding":
        shard.write_clips = _second_time(shard.write_clips)
    elif point == "after the shard file":
        shard.write_record = _second_time(shard.write_record)
    elif point == "before the manifest":
        manifest.write_manifest = _kill
    elif point == "within the manifest":
        replace = Path.replace

        def kill_at_manifest(self: Path, target: Any) -> Path:
            if Path(target).name == manifest.MANIFEST:
                _kill()
            return replace(self, target)

        Path.replace = kill_at_manifest  # type: ignore[method-assign]
    else:
        raise SystemExit(f"{point} is not one of {POINTS}")


def _run_and_die(root: str, out: str, point: str) -> int:
    """How a child of this process ended that ran into ``out`` until the point: its exit code."""
    child = os.fork()
    if child == 0:
        _arm(point)
        run(config_of(data_config("s4", root), out, shard_clips=1))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    root, outs = sys.argv[1:]
    for point in POINTS:  # imports take seconds: the children share them
        print(_run_and_die(root, f"{outs}/{point}", point))
