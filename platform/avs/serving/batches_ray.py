"""Batches in Ray Jobs, and the environment that they share with the service.

Ray's client waits for ever and listens to HTTP proxies of the environment; this one does neither.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import ray
import requests
from ray.job_submission import JobDetails, JobSubmissionClient, JobType

from avs.errors import ConfigError
from avs.serving.batches_command import BatchPlan
from avs.serving.batches_jobs import Job, JobServerAwayError
from avs.serving.config import BatchesConfig
from avs.serving.tokens import TOKENS_VARIABLE

__all__ = ["JobServer", "batch_plan", "check_job_server", "with_program"]

_PROGRAM = "segment.py"
_OWNER, _REQUEST, _CHECKPOINT = "avs_batch_owner", "avs_batch_request", "avs_batch_checkpoint"
_NO_PROXIES = {"http": None, "https": None, "all": None}
_logger = logging.getLogger(__name__)


def with_program(config: BatchesConfig, *, jobs: Path | None) -> BatchesConfig:
    """The same, with the program found beside ``jobs/serve.py``, whose folder is ``jobs``.

    Sent with ``ray job submit`` it lies in the working folder, which every node unpacks where it
    likes; else it lies where it is on this machine.
    """
    if not config.is_on or config.program is not None or jobs is None:
        return config
    path = jobs / _PROGRAM
    has_folder = "working_dir" in _runtime_env()
    return replace(config, program=f"jobs/{_PROGRAM}" if has_folder else str(path.resolve()))


def batch_plan(config: BatchesConfig) -> BatchPlan | None:
    """How batches run, None where there are none; ``ray.init`` comes before.

    Raises:
        ConfigError: nobody says where the program is.
    """
    if not config.is_on:
        return None
    if config.program is None:
        raise ConfigError(
            "batches.program=null: give the path of jobs/segment.py on the nodes, as "
            "/app/jobs/segment.py, or leave batches.input_prefixes and output_prefixes empty."
        )
    env = _runtime_env()
    # What a batch decodes comes from anywhere: the tokens of this service are no business of it.
    env["env_vars"] = {**env.get("env_vars", {}), TOKENS_VARIABLE: ""}
    python = "python" if "working_dir" in env else sys.executable
    return BatchPlan(config=config, python=python, program=config.program, runtime_env=env)


class JobServer:
    """That of the cluster of this process, or at ``address``; called when first needed."""

    def __init__(self, address: str | None, *, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._client: _Client | None = None

    def submit(
        self,
        id: str,  # noqa: A002
        command: str,
        *,
        owner: str,
        request: str,
        checkpoint: str,
        runtime_env: Mapping[str, Any],
        num_cpus: float,
    ) -> bool:
        """See :class:`Jobs`."""
        try:
            self._call(
                "submit_job",
                entrypoint=f"{self._cluster()}{command}",
                submission_id=id,
                runtime_env=dict(runtime_env),
                metadata={_OWNER: owner, _REQUEST: request, _CHECKPOINT: checkpoint},
                entrypoint_num_cpus=num_cpus,
            )
        except _RefusedError:
            # Ray has no word of its own for an id that is taken.
            if self.find(id) is None:
                raise JobServerAwayError("the job server refused a job") from None
            return False
        return True

    def find(self, id: str) -> Job | None:  # noqa: A002
        """See :class:`Jobs`."""
        try:
            details: JobDetails = self._call("get_job_info", id)
        except _RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise JobServerAwayError(str(error)) from None
        return _job(details)

    def all(self) -> list[Job]:
        """See :class:`Jobs`."""
        try:
            listed: list[JobDetails] = self._call("list_jobs")
        except _RefusedError as error:
            raise JobServerAwayError(str(error)) from None
        return [job for job in map(_job, listed) if job is not None]

    def stop(self, id: str) -> None:  # noqa: A002
        """See :class:`Jobs`."""
        try:
            self._call("stop_job", id)
        except _RefusedError as error:
            raise JobServerAwayError(str(error)) from None

    def _cluster(self) -> str:
        """What makes the command join this cluster.

        Ray tells it the address of whichever was started last on its machine (measured: with two
        there, a job of one went to the other).
        """
        if self._address is not None:
            return ""
        return f"RAY_ADDRESS={shlex.quote(ray.get_runtime_context().gcs_address)} "

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._client is None:
                # Not found out by Ray, which may find another cluster on this machine.
                address = self._address or ray.get_runtime_context().gcs_address
                self._client = _Client(address, timeout_s=self._timeout_s)
            return getattr(self._client, method)(*args, **kwargs)
        except _RefusedError:
            raise
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            self._client = None  # the head may have moved
            _logger.warning("batches: the job server is away: %s", error)
            raise JobServerAwayError(str(error)) from None


def check_job_server(config: BatchesConfig) -> None:
    """Raise ConfigError where batches are wanted and no job server is there."""
    if not config.is_on:
        return
    try:
        JobServer(config.job_address, timeout_s=config.timeout_s).all()
    except JobServerAwayError as error:
        raise ConfigError(
            "batches need Ray's job server, which is part of its dashboard and does not answer "
            f"({error}): start Ray with it, give batches.job_address=http://HEAD:8265, or leave "
            "batches.input_prefixes and output_prefixes empty."
        ) from None


class _RefusedError(Exception):
    """The job server answered, but not with 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the job server answered {status}")
        self.status = status


class _Client(JobSubmissionClient):
    def __init__(self, address: str, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        super().__init__(address)

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> requests.Response:
        given = {"timeout": self._timeout_s, "proxies": _NO_PROXIES, **kwargs}
        return super()._do_request(method, endpoint, **given)

    def _raise_error(self, r: requests.Response) -> None:
        _logger.info("batches: the job server answered %d: %s", r.status_code, r.text[-500:])
        raise _RefusedError(r.status_code)


def _job(details: JobDetails) -> Job | None:
    """None for a job that is no batch."""
    told = details.metadata or {}
    if details.type is not JobType.SUBMISSION or not {_OWNER, _REQUEST, _CHECKPOINT} <= set(told):
        return None
    return Job(
        id=details.submission_id or "",
        status=details.status.value,
        owner=told[_OWNER],
        request=told[_REQUEST],
        checkpoint=told[_CHECKPOINT],
        begun_s=(details.start_time or 0) / 1000,
        ended_s=None if details.end_time is None else details.end_time / 1000,
        exit_code=details.driver_exit_code,
        message=details.message or "",
    )


def _runtime_env() -> dict[str, Any]:
    """That of this job, with the packages it was sent with."""
    return dict(ray.get_runtime_context().runtime_env)
