"""A pipeline with a real decoder, and networks behind it: a true one, and one that is told when."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from made_up_service import model_info, serving_config

from avs.media.sandbox import Sandbox
from avs.serving.messages import Head, Options, Part
from avs.serving.meters import Meters
from avs.serving.pipeline import Forward, VideoPipeline
from avs.serving.segmenter import WindowSegmenter
from avs.serving.spec import ModelSpec, WindowAnswer, WindowJob
from avs.training.clip_spec import ClipSpec

THRESHOLD = 0.17  # the masks of random weights are then all different
CLIP = ClipSpec(num_frames=3, image_size_px=32, class_names=("background", "sounding"))


class CountingSandbox(Sandbox):
    """Counts what its child was asked, and how many of its results there are still."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.alive = Alive()

    def call(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        self.calls.append(function.__name__)
        result = super().call(function, *args, **options)
        if hasattr(result, "frames"):
            self.alive.add(result.frames)
        return result


class Alive:
    """How many of some arrays there are, and were at most."""

    def __init__(self) -> None:
        self.now = self.most = self.ever = 0

    def add(self, array: np.ndarray) -> None:
        self.now += 1
        self.ever += 1
        self.most = max(self.most, self.now)
        weakref.finalize(array, self._gone)

    def _gone(self) -> None:
        self.now -= 1


@contextmanager
def running_pipeline(**limits: float) -> Iterator[VideoPipeline]:
    """A pipeline whose ``sandbox`` is a :class:`CountingSandbox`."""
    with ThreadPoolExecutor(4) as threads:
        pipeline = VideoPipeline(
            limits=serving_config(limits=limits).limits,
            sandbox=CountingSandbox(),
            threads=threads,
            meters=Meters(),
        )
        yield pipeline
        pipeline.sandbox.close()


def with_limits(pipeline: VideoPipeline, **limits: float) -> VideoPipeline:
    """The same with other limits."""
    return replace(pipeline, limits=serving_config(limits=limits).limits)


def options(**changes: Any) -> Options:
    """One mask a second as JSON."""
    values: dict[str, Any] = {
        "format": "rle_json",
        "masks_per_s": 1,
        "threshold": THRESHOLD,
        "max_duration_s": 600.0,
        "objects": False,
        "model": "default",
    }
    return Options(**{**values, **changes})


def made_up_spec(windows_per_forward: int) -> ModelSpec:
    """Of a network that there is not."""
    return ModelSpec(
        info=replace(model_info("default"), num_frames=3, image_size_px=32),
        clip=CLIP,
        input_kind="log_mel",
        category_names=(),
        windows_per_forward=windows_per_forward,
    )


def forward_of(segmenter: WindowSegmenter) -> Forward:
    """Window by window, in this thread."""

    async def forward(job: WindowJob) -> WindowAnswer:
        [answer] = segmenter.forward([job])
        assert isinstance(answer, WindowAnswer)
        return answer

    return forward


class Network:
    """Answers empty masks, one for each permit; counts who waits and whose work is alive."""

    def __init__(self, *, num_permits: int = 10**6) -> None:
        self.permits = asyncio.Semaphore(num_permits)
        self.num_waiting = self.most_waiting = self.num_asked = self.num_cancelled = 0
        self.alive = Alive()
        self.error: Exception | None = None

    async def __call__(self, job: WindowJob) -> WindowAnswer:
        self.alive.add(job.frames)
        self.num_asked += 1
        self.num_waiting += 1
        self.most_waiting = max(self.most_waiting, self.num_waiting)
        try:
            await self.permits.acquire()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_waiting -= 1
        if self.error is not None:
            raise self.error
        logits = np.full((len(job.frames), 1, 32, 32), -9.0, np.float32)
        return WindowAnswer(logits=logits, visible=None, newest=job.checkpoint)


async def all_parts(
    pipeline: VideoPipeline, path: Path, *, spec: ModelSpec, forward: Forward, **changes: Any
) -> list[Part]:
    """The whole answer for a video that its sender calls mine.mp4."""
    parts = pipeline.parts(
        path, name="mine.mp4", options=options(**changes), spec=spec, forward=forward
    )
    return [part async for part in parts]


def body_of(parts: list[Part], *, checkpoint: str) -> bytes:
    """What follows the head, which tells its length unless it cannot be known."""
    head, *rest = parts
    assert isinstance(head, Head), head
    assert head.checkpoint == checkpoint
    body = b"".join(part for part in rest if isinstance(part, bytes))
    assert len(rest) == sum(isinstance(part, bytes) for part in rest), rest[-1]
    assert head.num_bytes in (None, len(body))
    return body
