"""The replicas that compute: decoders on CPUs, segmenters with a network.

    decoder (few videos at a time) -> by object reference -> segmenter (windows of many videos)

A segmenter works in one thread of its own, so its replica still answers health checks. Windows that
arrive while it computes are the next batch: alone, a client never waits for others, and under load
batches fill by themselves.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from avs import storage
from avs.media.sandbox import Sandbox
from avs.media.sandbox_limits import SandboxLimits
from avs.serving.calling import TRIES, call, pause
from avs.serving.config import LimitsConfig
from avs.serving.live_window import live_answer
from avs.serving.messages import (
    NO_ROOM,
    ApiError,
    Head,
    LiveAnswer,
    LiveRequest,
    Options,
    Part,
    Refusal,
    Upload,
)
from avs.serving.meters import RayMeters
from avs.serving.pipeline import VideoPipeline
from avs.serving.scratch import Scratch
from avs.serving.segmenter import WindowSegmenter
from avs.serving.spec import ModelSpec, UnknownCheckpoint, WindowAnswer, WindowJob

__all__ = ["Decoder", "Segmenter"]

_THREADS = 8
_VIDEOS_AT_ONCE = 2  # one waits for masks while another is decoded
_logger = logging.getLogger("ray.serve")


class Segmenter:
    """One model; its checkpoint comes by ``reconfigure`` and may be replaced while it serves."""

    def __init__(self, name: str, share: float, device: str, keep_s: float) -> None:
        self._windows = WindowSegmenter(name, share=share, device=device, keep_s=keep_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segment")
        self._is_loaded = False
        self._meters = RayMeters()

    async def reconfigure(self, user_config: Mapping[str, str]) -> None:
        """Take over ``checkpoint``; where there is one already, a bad one changes nothing."""
        try:
            await asyncio.to_thread(
                self._windows.load, user_config["checkpoint"], digest=user_config["hash"]
            )
        except Exception:
            if not self._is_loaded:
                raise
            _logger.exception("the old checkpoint stays")
        self._is_loaded = True
        batches: Any = self._forward  # what @serve.batch makes of it
        batches.set_max_batch_size(self._windows.spec.windows_per_forward)

    async def spec(self) -> ModelSpec:
        """Of the newest checkpoint."""
        return self._windows.spec

    async def forward(self, job: WindowJob) -> WindowAnswer | UnknownCheckpoint:
        """Logits of one window."""
        answer: WindowAnswer | UnknownCheckpoint = await self._forward(job)
        return answer

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)
    async def _forward(self, jobs: list[WindowJob]) -> list[WindowAnswer | UnknownCheckpoint]:
        self._meters.batch(len(jobs))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._windows.forward, jobs)


class _StaleError(Exception):
    """The segmenters hold another checkpoint than the one a video began with."""


class _Model:
    """The segmenters of one model as a decoder sees them."""

    def __init__(self, segmenter: DeploymentHandle[Any]) -> None:
        self._segmenter = segmenter
        self._spec: ModelSpec | None = None

    async def spec(self) -> ModelSpec:
        """Of the newest checkpoint that is known of."""
        if self._spec is None:
            self._spec = await call(self._segmenter.spec.remote)
        return self._spec

    async def forward(self, job: WindowJob) -> WindowAnswer:
        """Raises _StaleError where the checkpoint is gone, ApiError where all segmenters are."""
        answer: WindowAnswer | UnknownCheckpoint = await call(
            lambda: self._segmenter.forward.remote(job)
        )
        if self._spec is not None and answer.newest != self._spec.info.checkpoint:
            self._spec = None  # later requests ask again
        if isinstance(answer, UnknownCheckpoint):
            raise _StaleError
        return answer


class Decoder:
    """Takes a video apart and puts its answer together."""

    def __init__(
        self,
        segmenters: dict[str, DeploymentHandle[Any]],
        limits: LimitsConfig,
        scratch: Scratch,
    ) -> None:
        self._models = {name: _Model(handle) for name, handle in segmenters.items()}
        self._scratch = scratch
        # In the order of arrival, and few: all at once would end late together.
        self._turns = asyncio.Semaphore(_VIDEOS_AT_ONCE)
        # A deadline of its own, whatever the size of the file.
        bounds = SandboxLimits(deadline_s=limits.decode_timeout_s, slowest_bytes_per_s=1 << 40)
        self._pipeline = VideoPipeline(
            limits=limits,
            sandbox=Sandbox(bounds),
            threads=ThreadPoolExecutor(_THREADS, thread_name_prefix="decode"),
            meters=RayMeters(),
        )
        warning = self._pipeline.sandbox.state().warning  # started, so that no request waits for it
        if warning:
            _logger.warning(warning)

    async def segment(
        self, data: bytes | None, upload: Upload, options: Options, timeout_s: float
    ) -> AsyncGenerator[Part, None]:
        """The parts of an answer. ``data``: the file, where it is not at ``upload.uri``."""
        try:
            async with asyncio.timeout(timeout_s), self._turns:
                with self._file(data, upload) as path:
                    async with aclosing(self._parts(path, upload.name, options)) as parts:
                        async for part in parts:
                            yield part
        except TimeoutError:
            yield Refusal(504, "timeout", f"{upload.name} was not done within {timeout_s:g} s")
        except ApiError as error:
            yield Refusal(error.status, error.code, error.message)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _logger.error("the disk is full: %s", error)
            yield Refusal(503, NO_ROOM, "the disk of the service is full; try again")

    async def live(self, request: LiveRequest) -> LiveAnswer | Refusal:
        """The mask of the newest picture of a camera."""
        model = self._models[request.model]
        for attempt in range(TRIES):
            spec = await model.spec()
            try:
                with self._scratch.folder() as folder:
                    return await live_answer(
                        request,
                        spec=spec,
                        forward=model.forward,
                        folder=folder,
                        pipeline=self._pipeline,
                    )
            except _StaleError:
                await pause(attempt)
            except ApiError as error:
                return Refusal(error.status, error.code, error.message)
        return _changed()

    async def _parts(self, path: Path, name: str, options: Options) -> AsyncGenerator[Part, None]:
        model = self._models[options.model]
        for attempt in range(TRIES):
            has_begun = False
            try:
                spec = await model.spec()
                if options.objects and not spec.info.finds_objects:
                    yield _no_objects(spec)
                    return
                parts = self._pipeline.parts(
                    path, name=name, options=options, spec=spec, forward=model.forward
                )
                async with aclosing(parts):
                    async for part in parts:
                        has_begun = has_begun or isinstance(part, Head)
                        yield part
                return
            except _StaleError:
                if has_begun:
                    break
                await pause(attempt)  # all segmenters have it in a moment
        yield _changed()

    @contextmanager
    def _file(self, data: bytes | None, upload: Upload) -> Iterator[Path]:
        if data is None:
            assert upload.uri is not None
            with storage.local_copy(upload.uri) as path:
                yield Path(path)
            return
        with self._scratch.folder() as folder:
            (folder / "upload").write_bytes(data)
            yield (folder / "upload").resolve()


def _no_objects(spec: ModelSpec) -> Refusal:
    text = (
        f"objects=true, but the model is {spec.info.network}, which finds no objects: leave it out"
    )
    return Refusal(422, "no_objects", text)


def _changed() -> Refusal:
    return Refusal(503, "checkpoint_changed", "the checkpoint was replaced meanwhile; try again")
