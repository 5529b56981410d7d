"""What every job shares: connecting to Ray, and ending with one line instead of a traceback."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import JobReturn
from hydra.errors import HydraException

from avs.errors import AvsError
from avs.overrides import explain_hydra_error, values_forced
from avs.usage import usage

# Where the cluster is this machine and ends with the job.
OWN_RAY = {
    # Ray's workers otherwise give way to everything else (nice 15): beside any other program they
    # get a thirtieth of a core, where a plain Python program would get half.
    "RAY_worker_niceness": "0",
    # Ray Train's controller looks at the workers every 2 s by default: a run waits for that at its
    # end, and an epoch for the epoch before. Here a look costs a millisecond.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # An actor that asks whether nodes are drained: one more process to start, and this node is not.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@contextmanager
def connect(num_cpus: int | None = None, *, has_jobs: bool = False) -> Iterator[None]:
    """Use the cluster at RAY_ADDRESS (as inside ``ray job submit``), else start Ray here;
    ``has_jobs``: with Ray's dashboard, which takes jobs."""
    local = not os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune prints boxes even when told not to
    if local and "RAY_AUTH_MODE" not in os.environ:
        # A token that lives and dies with this instance: Ray's own default would write one to the
        # home folder, where later `ray start` calls pick it up. Ray reads both when imported.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    if local:
        for name, value in OWN_RAY.items():
            os.environ.setdefault(name, value)
    import ray

    if local:
        # Not found out by Ray, which would join whatever `ray start` noted last, dead or alive.
        with _start_in_words():
            ray.init(
                "local",
                num_cpus=num_cpus,
                include_dashboard=has_jobs,
                log_to_driver=False,
                logging_level="warning",
            )
    else:
        ray.init(log_to_driver=False, logging_level="warning")
    # Ray's own ends with code 15, and during its start with a dump.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    _quiet_data()
    _quiet_avs()
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _start_in_words() -> Iterator[None]:
    """Ray has no class for a start that took too long."""
    try:
        yield
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        raise AvsError(
            "Ray did not start in time: this machine is busy, or short of memory. Try again, or "
            "see what its log says (/tmp/ray/session_latest/logs)."
        ) from error


def run(main: Callable[[], Any], schema: type[Any]) -> None:
    """Run a hydra main; a mistake of the user ends with one line and the error's exit code."""
    given = sys.argv[1:]
    helping = bool({"-h", "--help"} & set(given))
    if helping:  # before Hydra's own, which has the values
        print(sys.modules["__main__"].__doc__, usage(schema), sep="\n", end="\n\n")
    sys.argv[1:] = values_forced(given, schema)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra re-raises instead of printing and exiting
    # Hydra's getter would print "Error executing job with overrides" before it raises.
    JobReturn.return_value = property(_result, JobReturn.return_value.fset)  # type: ignore[method-assign]
    try:
        main()
    except AvsError as error:
        # One that came from a worker is dressed in Ray's class; its cause is ours.
        _stop(str(getattr(error, "cause", error)), error.exit_code)
    except (HydraException, ValueError) as error:
        if helping:  # no values to show as long as a choice has not been made
            return
        _stop(explain_hydra_error(error, schema, given), 2)
    except OSError as error:  # a full disk, a folder that may not be written
        _stop(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is missing", file=sys.stderr)
        sys.exit(130)


def _result(job: JobReturn) -> Any:
    if isinstance(job._return_value, Exception):
        raise job._return_value
    return job._return_value


def _stop(message: str, code: int) -> None:
    print("error:", " ".join(message.splitlines()), file=sys.stderr)
    sys.exit(code)


def _quiet_avs() -> None:
    """Lines about single clips go to the job's own log, not between those that it prints."""
    import logging

    logging.getLogger("avs").propagate = False


def _quiet_data() -> None:
    """The jobs print their own progress; Ray Data's bars would interleave with it."""
    import logging

    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
