"""One video to one answer, without Ray: what a decoder replica does.

    file -> look -> pieces -> rounds of windows -> (network elsewhere) -> masks -> answer in parts

Only a few windows are under way at a time, so an hour of video takes the memory of minutes; and a
request that is cancelled stops at its next step. Threads do what computes: the event loop stays
free. The masks are those of ``jobs/segment.py``, made by the same functions.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from avs.errors import MediaError
from avs.inference.network_input import window_arrays
from avs.inference.outputs import OutputKind
from avs.inference.track import NO_SOUND, MaskTrack, TimedMask
from avs.inference.window import window_masks
from avs.media.pieces import PIECE_S, MediaWindow, decode_pieces, media_rounds, part_of
from avs.media.probing import VideoInfo, VideoTrack, read_track
from avs.media.sampling import native_rate
from avs.media.sandbox import Sandbox
from avs.media.video import DecodedVideo, decode_video
from avs.serving.config import LimitsConfig
from avs.serving.messages import STREAM, ApiError, Head, Options, Part, Refusal
from avs.serving.meters import Meters, timed
from avs.serving.opening import check_file, check_info, public_text
from avs.serving.outcome import json_of, written
from avs.serving.spec import ModelSpec, WindowAnswer, WindowJob

__all__ = ["Forward", "VideoPipeline"]

Forward = Callable[[WindowJob], Awaitable[WindowAnswer]]
R = TypeVar("R")

_STREAM_PIECE_S = 30  # the first masks of a stream do not wait for minutes to be decoded
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoPipeline:
    """What all requests of a process share."""

    limits: LimitsConfig
    sandbox: Sandbox
    threads: Executor
    meters: Meters

    async def run(self, function: Callable[..., R], *args: Any, **options: Any) -> R:
        """Call a function that computes in a thread."""
        work = partial(function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def parts(
        self, path: Path, *, name: str, options: Options, spec: ModelSpec, forward: Forward
    ) -> AsyncGenerator[Part, None]:
        """The answer for a local file that its sender calls ``name``.

        ``forward`` gives the logits of a window; what it raises ends the answer.
        """
        work = _Work(self, path, name, options, spec, forward)
        try:
            refusal = await work.open()
            if refusal is not None:
                yield refusal
                return
            parts = work.stream() if options.format == STREAM else work.file()
            async with aclosing(parts):
                async for part in parts:
                    yield part
        except MediaError as error:
            yield Refusal(422, "unreadable", public_text(error, path, name))


class _Work:
    """One request."""

    def __init__(
        self,
        pipeline: VideoPipeline,
        path: Path,
        name: str,
        options: Options,
        spec: ModelSpec,
        forward: Forward,
    ) -> None:
        self._pipeline, self._path, self._name = pipeline, path, name
        self._options, self._spec, self._forward = options, spec, forward
        self._rate = options.masks_per_s or 1
        self._track = MaskTrack.empty(spec.clip.class_names)
        self._has_sound = False

    async def open(self) -> Refusal | None:
        """Look at the file; None when it can be segmented."""
        refusal = check_file(self._path, name=self._name)
        if refusal is not None:
            return refusal
        with timed(self._pipeline.meters, "open"):
            track: VideoTrack = await self._pipeline.run(
                self._pipeline.sandbox.call, read_track, str(self._path)
            )
        refusal = self._checked(track)
        if refusal is None:
            self._rate = self._options.masks_per_s or native_rate(track.fps)
            self._track = MaskTrack.empty(self._spec.clip.class_names, masks_per_s=self._rate)
        return refusal

    async def file(self) -> AsyncGenerator[Part, None]:
        """All masks, then the whole answer in pieces."""
        async with aclosing(self._rounds(piece_s=PIECE_S)) as rounds:
            async for found in rounds:
                self._track.masks += found
        self._finish()
        if self._options.format == OutputKind.RLE_JSON.value:
            body = await self._pipeline.run(json_of, self._track, name=self._name)
            yield Head(self._spec.info.checkpoint, len(body))
            yield body
            return
        with tempfile.TemporaryDirectory(dir=self._path.parent) as folder:
            with timed(self._pipeline.meters, "write"):
                target = await self._pipeline.run(
                    written,
                    self._track,
                    self._options.format,
                    Path(folder),
                    video=self._path,
                )
            yield Head(self._spec.info.checkpoint, target.stat().st_size)
            with target.open("rb") as file:
                while chunk := await self._pipeline.run(file.read, _CHUNK_BYTES):
                    yield chunk

    async def stream(self) -> AsyncGenerator[Part, None]:
        """A line of JSON per round."""
        yield Head(self._spec.info.checkpoint, None)
        num_masks = 0
        async with aclosing(self._rounds(piece_s=_STREAM_PIECE_S)) as rounds:
            async for found in rounds:
                if not num_masks:
                    yield self._start()
                num_masks += len(found)
                plain = replace(self._track, masks=found).to_json()
                yield _line("masks", {"masks": plain["masks"]})
        self._finish()
        yield _line("end", {"num_masks": num_masks, "warnings": self._track.warnings})

    def _start(self) -> bytes:
        head = {k: v for k, v in self._track.to_json().items() if k not in ("masks", "format")}
        info = self._spec.info
        said = {"video": self._name, "model": info.name, "checkpoint": info.checkpoint}
        return _line("start", head | said)

    def _finish(self) -> None:
        if not self._has_sound:
            self._track.warnings.append(NO_SOUND)

    async def _rounds(self, *, piece_s: int) -> AsyncGenerator[list[TimedMask], None]:
        """The masks of each round in the order of time, a few windows ahead of the one given."""
        source = self._windows(piece_s)
        waiting: deque[tuple[list[MediaWindow], list[asyncio.Task[WindowAnswer]]]] = deque()
        ahead = 2 * self._spec.windows_per_forward
        is_over = False
        try:
            while waiting or not is_over:
                while not is_over and sum(len(tasks) for _, tasks in waiting) < ahead:
                    with timed(self._pipeline.meters, "decode"):
                        windows = await self._pipeline.run(next, source, None)
                    is_over = windows is None
                    if windows is not None:
                        tasks = [asyncio.create_task(self._answer(w)) for w in windows]
                        waiting.append((windows, tasks))
                if waiting:
                    windows, tasks = waiting[0]
                    answers = [await task for task in tasks]
                    waiting.popleft()
                    with timed(self._pipeline.meters, "masks"):
                        found = await self._pipeline.run(self._masks, windows, answers)
                    yield found
        finally:
            for _, tasks in waiting:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _windows(self, piece_s: int) -> Iterator[list[MediaWindow]]:
        clip = self._spec.clip
        pieces = decode_pieces(
            str(self._path),
            size_px=(clip.image_size_px, clip.image_size_px),
            max_duration_s=self._options.max_duration_s,
            samples_per_s=self._rate,
            window_frames=clip.num_frames,
            piece_s=piece_s,
            decode=partial(self._pipeline.sandbox.call, cast(Any, decode_video)),
        )
        return media_rounds(
            (part_of(self._seen(video)) for video in pieces),
            window_frames=clip.num_frames,
            samples_per_s=self._rate,
        )

    def _checked(self, info: VideoInfo | VideoTrack) -> Refusal | None:
        limits, longest_s = self._pipeline.limits, self._options.max_duration_s
        return check_info(info, name=self._name, limits=limits, max_duration_s=longest_s)

    def _seen(self, video: DecodedVideo) -> DecodedVideo:
        refusal = self._checked(video.info)  # the header may lie
        if refusal is not None:
            raise ApiError(refusal.status, refusal.code, refusal.message)
        told = tuple(public_text(w, self._path, self._name) for w in video.warnings)
        self._track.note(replace(video, warnings=told))
        self._has_sound = self._has_sound or video.samples is not None
        return video

    async def _answer(self, window: MediaWindow) -> WindowAnswer:
        frames, sound, valid = await self._pipeline.run(
            window_arrays, [window], self._spec.clip, input_kind=self._spec.input_kind
        )
        job = WindowJob(
            checkpoint=self._spec.info.checkpoint,
            frames=frames[0],
            sound=sound[0],
            frame_valid=valid[0],
            objects=self._options.objects,
        )
        with timed(self._pipeline.meters, "forward"):
            return await self._forward(job)

    def _masks(self, windows: list[MediaWindow], answers: list[WindowAnswer]) -> list[TimedMask]:
        found = replace(self._track, masks=[])
        for window, answer in zip(windows, answers, strict=True):
            for made in window_masks(
                answer.logits_tensor(),
                answer.visible_objects(),
                window,
                size_px=found.size_px,
                threshold=self._options.threshold,
                names=self._spec.category_names,
            ):
                found.add(made.time_s, made.mask, made.objects)
        return sorted(found.masks, key=lambda mask: mask.time_s)


def _line(event: str, rest: dict[str, Any]) -> bytes:
    return json.dumps({"event": event, **rest}, ensure_ascii=False).encode() + b"\n"
