"""Batches: begun, told of and stopped, with no memory of their own.

What a batch is stands in Ray Jobs, what it has done in the commit records and reports of its
output, so any replica can tell of it. Ray Jobs forget with the cluster: then the same request
begins the batch again, which does only what is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from avs import storage
from avs.errors import AvsError, RejectBudgetError
from avs.inference.bucket.job import COMMIT
from avs.serving.batches_command import BatchPlan, Weights, command
from avs.serving.batches_jobs import Job, Jobs, JobServerAwayError
from avs.serving.batches_request import BatchRequest, batch_id, is_batch_id
from avs.serving.batches_words import told
from avs.serving.messages import ApiError
from avs.telemetry import SUMMARY

__all__ = ["MAX_LISTED", "Batches"]

T = TypeVar("T")
MAX_LISTED = 100
_MAX_ATTEMPTS = 100
_MAX_KEYS = 20_000  # of S3 that one answer looks at: twenty pages
_COUNT_S = 3.0
_THREADS = 4  # of its own: a job server that hangs must not hold up the segmenting
_LATER = {"Retry-After": "30"}
_COUNTED = ("videos", "ok", "rejected")


class Batches:
    """``plan``: None where the service takes none; all methods then raise ApiError 404.

    ``weights``: the served checkpoints by name; whoever serves newer ones replaces them. Methods
    take the owner, see ``owner_of``, and raise ApiError 503 where Ray Jobs do not answer.
    """

    def __init__(self, plan: BatchPlan | None, *, jobs: Jobs) -> None:
        self._plan, self._jobs = plan, jobs
        self.weights: Mapping[str, Weights] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "batches")
        self._starting = asyncio.Lock()  # the limits are looked at and used up one by one

    @property
    def plan(self) -> BatchPlan:
        """How batches run; raises ApiError 404 where none are taken."""
        if self._plan is None:
            raise ApiError(
                404,
                "no_batches",
                "this service takes no batches; its owner can set batches.input_prefixes and "
                "batches.output_prefixes",
            )
        return self._plan

    async def start(
        self, request: BatchRequest, *, owner: str, key: str
    ) -> tuple[dict[str, Any], bool]:
        """Begin a batch; its state, and whether it is new.

        The same key and request again give the same batch, save that one which failed or was
        stopped is begun again, as another attempt.

        Raises:
            ApiError: 409, the key stands for another request; 429, too many run.
        """
        async with self._starting:
            job, attempt = await self._latest(request, owner=owner, key=key)
            if job is not None:
                return await self._view(job), False
            await self._check_room(owner)
            id_ = batch_id(owner, key, attempt)
            is_new = await self._submit(id_, request, owner=owner)
            begun = await self._call(self._jobs.find, id_)
        if begun is None or begun.owner != owner:
            raise _away()
        if begun.request != request.to_text():  # sent to another replica at the same moment
            raise _other_request()
        return await self._view(begun), is_new

    async def get(self, id_: str, *, owner: str) -> dict[str, Any]:
        """The state of a batch with what is done; raises ApiError 404 where it is no own one."""
        return await self._view(await self._own(id_, owner))

    async def listed(self, *, owner: str) -> list[dict[str, Any]]:
        """The newest own ones, at most MAX_LISTED, without what is done."""
        jobs = [job for job in await self._all() if job.owner == owner]
        jobs.sort(key=lambda job: (job.begun_s, job.id), reverse=True)
        return [told(job) for job in jobs[:MAX_LISTED]]

    async def stop(self, id_: str, *, owner: str) -> tuple[dict[str, Any], bool]:
        """End a batch, whose outputs stay; its state, and whether it is over by now."""
        job = await self._own(id_, owner)
        if not job.is_over:
            await self._call(self._jobs.stop, id_)
            job = await self._own(id_, owner)
        return await self._view(job), job.is_over

    async def _latest(
        self, request: BatchRequest, *, owner: str, key: str
    ) -> tuple[Job | None, int]:
        """The attempt that stands, or None and the number of the next one."""
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            job = await self._call(self._jobs.find, batch_id(owner, key, attempt))
            if job is None:
                return None, attempt
            if job.request != request.to_text():
                raise _other_request()
            if job.status not in ("FAILED", "STOPPED"):
                return job, attempt
        text = f"this Idempotency-Key was tried {_MAX_ATTEMPTS} times: give another one"
        raise ApiError(409, "too_many_attempts", text)

    async def _check_room(self, owner: str) -> None:
        config = self.plan.config
        running = [job for job in await self._all() if not job.is_over]
        num_own = sum(job.owner == owner for job in running)
        if num_own >= config.max_per_token:
            text = f"this token has {num_own} batches that are not over; try again later"
            raise ApiError(429, "too_many_batches", text, _LATER)
        if len(running) >= config.max_running:
            text = f"{len(running)} batches run already; try again later"
            raise ApiError(429, "too_many_batches", text, _LATER)

    async def _submit(self, id_: str, request: BatchRequest, *, owner: str) -> bool:
        plan, weights = self.plan, self.weights.get(request.model)
        if weights is None:
            raise ApiError(503, "not_ready", "the model is not loaded yet")

        def submit() -> bool:
            return self._jobs.submit(
                id_,
                command(plan, request, checkpoint=weights.uri),
                owner=owner,
                request=request.to_text(),
                checkpoint=weights.digest,
                runtime_env=plan.runtime_env,
                num_cpus=plan.config.driver_cpus,
            )

        return await self._call(submit)

    async def _own(self, id_: str, owner: str) -> Job:
        _ = self.plan
        job = await self._call(self._jobs.find, id_) if is_batch_id(id_) else None
        if job is None or job.owner != owner:
            raise ApiError(404, "unknown_batch", "this token has no batch of that id")
        return job

    async def _all(self) -> list[Job]:
        _ = self.plan
        return await self._call(self._jobs.all)

    async def _view(self, job: Job) -> dict[str, Any]:
        output = told(job)["output"]
        counts = committed = None
        try:
            if job.status == "SUCCEEDED" or job.exit_code == RejectBudgetError.exit_code:
                counts = await self._run(lambda: _counts(output))
            else:
                committed = await self._run(lambda: _committed(output))
        except (AvsError, OSError, TimeoutError):
            pass  # storage that is away for a moment does not hide the state
        return {**told(job), "counts": counts, "committed": committed}

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return await self._run(lambda: function(*args))
        except (JobServerAwayError, TimeoutError):
            raise _away() from None

    async def _run(self, function: Callable[[], T]) -> T:
        """In a thread; one that hangs is left to its own time limits."""
        waiting = asyncio.get_running_loop().run_in_executor(self._threads, function)
        return await asyncio.wait_for(waiting, self.plan.config.timeout_s)


def _counts(output: str) -> dict[str, int]:
    """Of all videos, as the job told at its end; of another one's summary too, if that came later.

    Raises DataError where there is none any more.
    """
    rows = storage.read_json(storage.join(output, SUMMARY))["rows"]
    return {name: int(rows[name]) for name in _COUNTED}


def _committed(output: str) -> dict[str, Any]:
    """Videos whose outputs are whole; "at_least" where the looking was broken off."""
    deadline_s = time.monotonic() + _COUNT_S
    num_done = 0
    for number, info in enumerate(storage.iter_files(output)):
        if number >= _MAX_KEYS or time.monotonic() > deadline_s:
            return {"videos": num_done, "at_least": True}
        num_done += info.path.endswith(f"/{COMMIT}")
    return {"videos": num_done, "at_least": False}


def _other_request() -> ApiError:
    text = "this Idempotency-Key stands for another request: give each batch its own"
    return ApiError(409, "key_in_use", text)


def _away() -> ApiError:
    text = "Ray's job server does not answer; batches that run go on"
    return ApiError(503, "batches_away", text)
