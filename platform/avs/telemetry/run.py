"""Which run of which job a process works for, and where its log lines go.

A process works for one run at a time, so the run is kept once for all its threads. The job makes
it (:func:`job_run`) and hands it to its workers as an argument (:func:`use_run`). A variable in
Ray's runtime environment would do too, but Ray keeps workers with another environment apart.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from avs import storage
from avs.errors import ConfigError
from avs.telemetry.lines import LOGGER, JsonLines, LogFile

__all__ = ["JobRun", "current_run", "job_run", "use_run"]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRun:
    """A run of a job: ``id`` is its start in UTC and 8 hex digits, ``level`` the least one of the
    lines that are kept."""

    job: str
    id: str
    level: str = "INFO"
    log_uri: str | None = None


class _State:
    """Of this process."""

    run: JobRun | None = None
    worker_handler: logging.Handler | None = None


def current_run() -> JobRun | None:
    """The run that this process works for, if anybody said so."""
    return _State.run


@contextmanager
def job_run(job: str, *, out: str | None = None) -> Iterator[JobRun]:
    """A new run of ``job`` while the block lasts: its lines go to ``out/logs/JOB-ID.jsonl``.

    The environment variable ``AVS_LOG_LEVEL`` (DEBUG, INFO, WARNING, ERROR) says what is kept,
    here and in the workers. How the block ended is the last line. Runs may be nested, as those of
    a job that calls others; an inner one's lines are its own.

    Raises:
        ConfigError: ``AVS_LOG_LEVEL`` is no level.
    """
    run = _new_run(job, out)
    logger, before = logging.getLogger(LOGGER), _State.run
    handler: logging.Handler = logging.NullHandler()
    if out is not None and run.log_uri is not None:
        handler = LogFile(run.log_uri, out=out)
    handler.setFormatter(JsonLines(run=run.id, job=job))
    handler.addFilter(lambda _: _State.run is run)
    level = logger.level
    logger.setLevel(run.level)
    logger.addHandler(handler)
    _State.run = run
    try:
        logger.info("%s begins", job)
        yield run
        logger.info("%s has ended", job)
    except BaseException as error:
        logger.error("%s failed: %s: %s", job, type(error).__name__, error)
        raise
    finally:
        handler.close()
        logger.removeHandler(handler)
        logger.setLevel(level)
        _State.run = before


def use_run(run: JobRun | None) -> None:
    """Work for ``run`` from now on: lines go to this process' standard error, as JSON.

    For workers, whose standard error Ray keeps. In the process that made the run, and with None,
    nothing happens.
    """
    if run is None or _State.run == run:
        return
    logger = logging.getLogger(LOGGER)
    if _State.worker_handler is not None:
        logger.removeHandler(_State.worker_handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(run=run.id, job=run.job))
    logger.addHandler(handler)
    logger.setLevel(run.level)
    logger.propagate = False  # else a line twice where something else listens to all loggers
    _State.run, _State.worker_handler = run, handler


def _new_run(job: str, out: str | None) -> JobRun:
    level = os.environ.get("AVS_LOG_LEVEL", "INFO").upper()
    if level not in _LEVELS:
        raise ConfigError(f"AVS_LOG_LEVEL={level} is not known. Known: {', '.join(_LEVELS)}.")
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
    log = None if out is None else storage.join(out, "logs", f"{job}-{name}.jsonl")
    return JobRun(job=job, id=name, level=level, log_uri=log)
